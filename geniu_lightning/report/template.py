"""Jinja2 templates, of which a room keeps its own in `templates/`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Jinja2 is imported late
    import jinja2


def template(package: str, name: str, latex: bool = False) -> "jinja2.Template":
    """Return a template; text that is put into HTML is escaped.

    Args:
        package: In whose folder `templates/` it is.
        name: Of the file.
        latex: Whether tags are written `<% %>` and `<< >>`, for braces are LaTeX's own.
    """
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
