"""Tables in LaTeX's booktabs form, one file a table and a document of all."""

from collections.abc import Sequence

from t2m_bench.reporting.table import Table

ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "†": r"\textsuperscript{$\dagger$}",
}

PREAMBLE = r"""\documentclass[a4paper,landscape]{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=15mm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""


def escape(text: str) -> str:
    """Return text with all that LaTeX would read as commands escaped."""
    return "".join(ESCAPES.get(character, character) for character in text)


def write_table(table: Table) -> str:
    """Return a float that needs booktabs and graphicx; wide tables are shrunk to the line."""
    layout = "".join("l" if table.is_text(column) else "r" for column in range(len(table.columns)))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        _write_row(table.columns),
        r"\midrule",
        *(_write_row(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {escape(table.note)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def write_document(title: str, paragraphs: Sequence[str], tables: Sequence[Table]) -> str:
    """Return a whole document: the paragraphs, then every table."""
    text = "\n\n".join(escape(paragraph) for paragraph in paragraphs)
    floats = "\n".join(write_table(table) + "\\clearpage" for table in tables)
    return f"{PREAMBLE}\\section*{{{escape(title)}}}\n{text}\n\\clearpage\n{floats}\n\\end{{document}}\n"


def _write_row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"
