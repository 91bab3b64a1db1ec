"""The receipt of an unlearning run as one page in plain words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = dict[str, Any]  # JSON values


def page_of(receipt: Json) -> str:
    """Return ``receipt.md``: every number of it stands in ``receipt.json``."""
    asked, read, found, cost = (receipt[name] for name in ("asked", "read", "found", "cost"))
    made, judged, seeds = receipt["unlearned"], receipt["judged"], asked["seeds"]
    new, earlier = (
        {one["index"]: one["name"] for one in asked["classes"] if one["earlier"] is side}
        for side in (False, True)
    )
    before = f"; forgotten by earlier requests: {classes_of(earlier)}" if earlier else ""
    prompts = (
        "its prompts were read, which stand for images"
        if read["prompts"]
        else "opened; the method read none of its prompts"
    )
    lines = [
        f"# {receipt['headline']}",
        "",
        f"{found['short']} What follows are measurements, no proof and no legal advice.",
        "",
        "## What was asked",
        f"- To forget {classes_of(new)}, from the kit `{asked['kit']}`, on {_time(made['at'])}"
        f"{before}.",
        f"- Method: `{asked['method']}`{_settings(asked['settings'])}; {cost['steps']} steps,"
        f" {cost['seconds']:.2f} s.",
        f"- Seeds: training {seeds['training']}, unlearning {seeds['unlearning']}, evaluation"
        f" {seeds['evaluation']}{_compared(seeds['oracles'])}.",
        f"- Software: {_software(made['versions'])}.",
    ]
    if judged is not None and judged != made:
        lines.append(f"- Judged on {_time(judged['at'])}. {_software(judged['versions'])}.")
    lines += [
        "",
        "## What was read to forget",
        f"- {_reads(read['training_images'])}; the method declares to read {read['declared']}.",
        f"- The kit, {', '.join(f'`{file}`' for file in read['files'])}: {prompts}.",
    ]
    if judged is not None:
        lines.append("- To measure, images were read afterwards; they are not in this number.")
    return "\n".join([*lines, *_rest(receipt)]) + "\n"


def _reads(count: int) -> str:
    if not count:
        return "No training image"
    return f"Training images, {count:,} times (one that is read twice counts twice)"


def _rest(receipt: Json) -> Iterator[str]:
    yield from ("", "## What was found", *_found(receipt["found"]))
    yield from ("", "## What was not checked")
    yield from (f"- {sentence}" for sentence in receipt["not_checked"])
    yield from ("", "## What to do next")
    yield from (f"{k}. {sentence}" for k, sentence in enumerate(receipt["next"], 1))
    yield from ("", "## Files, with SHA-256 of their bytes, as `sha256sum FILE` prints it")
    yield from ("| file | what | delete | SHA-256 |", "|---|---|---|---|")
    for file in receipt["files"]:
        name, delete = file["file"] or "(name not recorded)", "yes" if file["delete"] else "no"
        yield f"| {name} | {file['what']} | {delete} | {file['sha256']} |"


def _found(found: Json) -> Iterator[str]:
    yield f"- **{found['word'] or 'no word'}**: {found['meaning']}"
    if found["reason"]:
        yield f"- Why: {found['reason']}."
    if found["oracle_words"]:
        others = ", ".join(f"{said} {count}" for said, count in found["oracle_words"].items())
        known = ", ".join(f"the {name} {said}" for name, said in found["controls"].items())
        yield (
            f"- Compared with {found['oracles']} models that never saw the class (oracles). The"
            f" same rule says of these: {others}; and of models whose answer is known: {known}."
        )
    if found["bands"]:
        band, blind, count = found["bands"][0], found["blind"], len(found["bands"])
        none_are = f"none of the {count} values that look inside the model"
        some_are = (
            f"{len(blind)} of the {count} values that look inside the model, which say nothing here"
            f" ({', '.join(f'`{name}`' for name in blind)})"
        )
        yield (
            f"- Coarsest comparison: `{band['name']}` may be {band['allowed']:.3f} away from their"
            " mean before it counts; a smaller difference would not have been seen. Not even the"
            f" model before is told apart in {some_are if blind else none_are}."
        )
    if found["values"]:
        yield from ("", "| value | before | after | never saw it |", "|---|---|---|---|")
    for row in found["values"]:
        cells = (row[name] for name in ("before", "after", "oracle_mean"))
        shown = " | ".join("-" if cell is None else f"{cell:.3f}" for cell in cells)
        yield f"| {_label(row['name'])} | {shown} |"


def _label(name: str) -> str:
    family, *path = name.split(".")
    if family == "accuracy" and path[1:] in (["forget"], ["retain"]):
        which = "forgotten" if path[1] == "forget" else "kept"
        return f"{which} classes: share answered right (`{name}`)"
    if family == "relearning" and path[-1] == "area":
        return (
            f"forgotten classes: brought back, images used {path[0].removeprefix('k')} (`{name}`)"
        )
    return f"`{name}`"


def _settings(settings: Json) -> str:
    flat = [f"{name}={json.dumps(value)}" for name, value in _flat(settings)]
    return f" with {', '.join(flat)}" if flat else ""


def _flat(settings: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not name.startswith("_"):  # which code it is stands in receipt.json
            yield prefix + name, value


def _software(found: Mapping[str, str | None] | None) -> str:
    if found is None:
        return "versions were not recorded"
    return ", ".join(f"{name} {_version(version)}" for name, version in found.items())


def _version(version: str | None) -> str:
    """Return a version as a person reads it: of a git revision the first digits."""
    if version is None:
        return "unknown"
    return version if len(version) < 40 else version[:12] + version[40:]


def _time(at: str) -> str:
    return at.replace("T", " ").replace("+00:00", " UTC")


def _compared(seeds: Sequence[int]) -> str:
    return f", models to compare with {', '.join(map(str, seeds))}" if seeds else ""


def classes_of(forget: Mapping[int, str]) -> str:
    """Return classes as sentences name them: index and name."""
    names = {k: " ".join(name.split()) for k, name in forget.items()}
    named = ", ".join(f"{k} ({name})" if name != str(k) else name for k, name in names.items())
    return f"{'class' if len(forget) == 1 else 'classes'} {named}"
