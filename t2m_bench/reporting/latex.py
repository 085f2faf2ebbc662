"""Tables in LaTeX's booktabs form, one file a table and a document of all."""

from collections.abc import Sequence

from t2m_bench.reporting.drawing import Figure
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

MAX_ROWS = 24
"""Most rows of a float; with its note they fill a page on its side."""

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
    """Return floats that need booktabs and graphicx: wide tables are shrunk to the line, tall ones go on in another."""
    starts = range(0, len(table.rows), MAX_ROWS)
    return "\n".join(_write_part(table, start) for start in starts or [0])


def _write_part(table: Table, start: int) -> str:
    """Return one float with the rows from `start` on; the last has the note, the first the label."""
    rows = table.rows[start : start + MAX_ROWS]
    is_last = start + MAX_ROWS >= len(table.rows)
    layout = "".join("l" if table.is_text(column) else "r" for column in range(len(table.columns)))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(table.title + (' (continued)' if start else ''))}}}",
        *([] if start else [rf"\label{{tab:{table.name.replace('_', '-')}}}"]),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        _write_row(table.columns),
        r"\midrule",
        *(_write_row(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *([rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {escape(table.note)}}}"] if is_last else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def write_figure(figure: Figure) -> str:
    """Return a float of a figure, from the PDF beside the document."""
    lines = [
        r"\begin{figure}[htbp]",
        r"\centering",
        rf"\includegraphics[width=\linewidth,height=0.8\textheight,keepaspectratio]{{figures/{figure.name}.pdf}}",
        rf"\caption{{{escape(figure.caption)}}}",
        rf"\label{{fig:{figure.name.replace('_', '-')}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def write_document(
    title: str, paragraphs: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure] = ()
) -> str:
    """Return a whole document: the paragraphs, the figures of page one, then every table."""
    text = "\n\n".join(escape(paragraph) for paragraph in paragraphs)
    floats = "\n".join([*map(write_figure, figures), *(write_table(table) + "\\clearpage" for table in tables)])
    return f"{PREAMBLE}\\section*{{{escape(title)}}}\n{text}\n\\clearpage\n{floats}\n\\end{{document}}\n"


def _write_row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"
