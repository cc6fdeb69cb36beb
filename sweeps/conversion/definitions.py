"""A node's inputs as the page builds them from the server's description: sockets first, then widgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DYNAMIC_COMBO, AUTOGROW, MATCH = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"
# InputSpec types that are widgets in the page.
WIDGETS = {
    *("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", DYNAMIC_COMBO),
    *("COLOR", "COLORS", "CURVE", "RANGE", "BOUNDING_BOX", "BOUNDING_BOXES", "IMAGECOMPARE", "PAINTER"),
    *("TEXTAREA", "MARKDOWN", "CHART", "GALLERIA", "IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI"),
    *("AUDIO_RECORD", "WEBCAM", "LOAD_3D", "LOAD_3D_ADVANCED", "PREVIEW_3D"),
}
# Classes that the page gives a view of what they have computed; it sends an empty text.
SHOWN_3D = ("SaveGLB", "Preview3D")
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")


@dataclass(frozen=True)
class InputSpec:
    """One input of a node. type: ComfyUI's name, "COMBO" for a list of choices as well."""

    name: str
    type: str
    options: Mapping[str, Any]

    @property
    def widget(self) -> str:
        """The widget's type; "" for a socket."""
        kind = str(self.options.get("widgetType") or self.type)
        return kind if kind in WIDGETS and not self.options.get("forceInput") else ""


def input_of(name: str, spec: Any) -> InputSpec:
    """An input from its description: [type, {options}], or [[choices], {options}]."""
    kind, *more = spec if isinstance(spec, (list, tuple)) else (spec,)
    options = more[0] if more and isinstance(more[0], Mapping) else {}
    if isinstance(kind, (list, tuple)):
        return InputSpec(name, "COMBO", {**options, "options": list(kind)})
    return InputSpec(name, str(kind), options)


def grouped(groups: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The names and descriptions of required and optional inputs."""
    for group in ("required", "optional"):
        yield from (groups.get(group) or {}).items()


def inputs_of(node: Mapping[str, Any]) -> list[InputSpec]:
    """The inputs of a node in the page's order, with those that the page itself adds at the end."""
    groups = node.get("input") or {}
    specs = {name: input_of(name, spec) for name, spec in grouped(groups)}
    order = node.get("input_order") or {}
    names = [
        name
        for group in ("required", "optional")
        for name in order.get(group) or groups.get(group) or ()
        if name in (groups.get(group) or {})
    ]
    if node.get("name") in SHOWN_3D:
        specs["image"] = InputSpec("image", "PREVIEW_3D", {})
    inputs = [specs[name] for name in dict.fromkeys([*names, *specs])]
    required = [input_of(name, spec) for name, spec in (groups.get("required") or {}).items()]
    for item in required:
        if item.type == "COMBO" and any(item.options.get(name) for name in UPLOADS):
            inputs.append(InputSpec("upload", "IMAGEUPLOAD", {}))
            break
    if any(item.options.get("audio_upload") for item in required):
        inputs.append(InputSpec("upload", "AUDIOUPLOAD", {}))
    return inputs


def unknown_type(inputs: list[InputSpec]) -> InputSpec | None:
    """The first input of a dynamic type that is not known here, in options of dynamic combos as well."""
    for item in inputs:
        kind = item.type
        if kind.startswith("COMFY_") and kind.endswith("_V3") and kind not in (DYNAMIC_COMBO, AUTOGROW, MATCH):
            return item
        for option in item.options.get("options") or () if kind == DYNAMIC_COMBO else ():
            inner = [input_of(f"{item.name}.{name}", spec) for name, spec in grouped(option.get("inputs") or {})]
            if unknown := unknown_type(inner):
                return unknown
    return None


def rows_of(item: InputSpec, row: int) -> list[InputSpec]:
    """The inputs of one row of a growing input, in the order of its template; none beyond the last one."""
    template = item.options.get("template") or {}
    names = template.get("names")
    last = len(names) if names else template.get("max", 100)
    if row >= last:
        return []
    parts = [input_of(name, spec) for name, spec in grouped(template.get("input") or {})]
    prefixes = [template.get("prefix") or ""] if len(parts) == 1 else [part.name for part in parts]
    return [
        InputSpec(f"{item.name}.{names[row] if names else f'{prefix}{row}'}", part.type, part.options)
        for prefix, part in zip(prefixes, parts)
    ]


def first_rows(item: InputSpec) -> int:
    """How many rows of a growing input are there at the start."""
    least = (item.options.get("template") or {}).get("min", 1)
    return max(1, least + 1)
