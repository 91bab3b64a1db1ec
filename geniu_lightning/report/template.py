"""Jinja2 templates, of which a room keeps its own in `templates/`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Jinja2 is imported late
    import jinja2


def template(package: str, name: str, latex: bool = False) -> "jinja2.Template":
    """Return a package's template; in HTML text is escaped, for LaTeX tags are `<% %>`, `<< >>`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if latex:
        environment = environment.overlay("<%", "%>", "<<", ">>", "<#", "#>")
    return environment.get_template(name)
