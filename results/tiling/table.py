"""The record of `results/tiling.py` as Markdown."""

UNTOUCHED = "as it is"


def promises(record: dict) -> list[str]:
    """Lines of a table: what is promised of `small` in tiles as they are unless set, the bound, what was found."""
    used = [row for row in record["small"] if row["variant"] == UNTOUCHED and row["tile"] == record["default_tile"]]
    largest = max((row["side"] for row in used), default=0)
    used = [row for row in used if row["side"] == largest]
    memory = {row["side"]: row["mib"] for row in record["growth"] if row["way"] == "rows"}
    rows = [("MiB above the model at 4096", "at most 2560", f"{memory[4096]:.0f}" if 4096 in memory else "not run"),
            *((f"exponent of {key} in pixels, in tiles", "at most 1.05", f"{slope:.2f}")
              for key, slope in record["exponents"]["rows"].items()),
            *((f"PSNR against untiled, {row['picture']} of {largest}", "at least 40 dB", f"{row['psnr']:.1f} dB")
              for row in used),
            *((f"gradients at seams, {row['picture']} of {largest}", "0.95 to 1.05",
               f"{row['zone']:.4f}, worst column {row['line']:.3f}") for row in used)]  # fmt: skip
    return ["| what | promised | found |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def table(record: dict) -> str:
    """Markdown."""
    processor, slopes = record["machine"]["processor"], record["exponents"]
    lines = [
        "# Tiles",
        "",
        f"`{record['command']}` at commit {record['commit']}, {processor}, {record['machine']['threads']} threads, "
        f"torch {record['machine']['torch']}.",
        "",
        "## Promised and found",
        "",
        *promises(record),
        "",
        "## Time and memory",
        "",
        f"Encode, decode and sigma map of a mosaic with `small`, tiles of {record['default_tile']} pixels; MiB above "
        "the loaded model, pictures included. `rows` is what `jeppa reconstruct` does, `whole` has no tiles.",
        "",
        "| side | way | seconds | MiB |",
        "|---|---|---|---|",
        *(f"| {row['side']} | {row['way']} | {row['seconds']:.1f} | {row['mib']:.0f} |" for row in record["growth"]),
        "",
        *(f"- exponents in pixels, {way}: time {found['seconds']:.2f}, memory {found['mib']:.2f}"
          for way, found in slopes.items()),
        "",
        "## Likeness to the untiled answer, and seams",
        "",
        "PSNR of the mean against the untiled mean; mean error of sigma in 8-bit levels; mean |gradient| where "
        "tiles overlap over that elsewhere, relative to the untiled answer, in all these columns and in the worst.",
    ]  # fmt: skip
    heads = {"small": "`small`, trained", "sd": "`sd`, random weights: self-attention in the middle"}
    for key, head in heads.items():
        lines += ["", f"### {head}", "", "| picture | side | tile | margin | variant | PSNR | sigma | zone | line |",
                  "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for row in record[key]:
            cells = [row[name] for name in ("picture", "side", "tile", "margin", "variant")]
            cells += [f"{row['psnr']:.1f}", f"{row['sigma_levels']:.3f}", f"{row['zone']:.4f}", f"{row['line']:.3f}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])
