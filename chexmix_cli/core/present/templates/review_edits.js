/**
 * What the reader decided, by study id: {decision, report, labels}. It is kept in the browser under the page's own
 * key, and exported as lines that training and evaluation read (core/data/review_edits.py).
 */
class Edits {
  constructor(key) {
    this.name = `chexmix-review-${key}`;
    this.isKept = true;
    this.all = new Map();
    try {
      const stored = JSON.parse(localStorage.getItem(this.name) || "{}");
      this.all = new Map(Object.entries(stored));
      localStorage.setItem(this.name, JSON.stringify(stored));
    } catch {
      this.isKept = false;
    }
  }

  of(id) {
    return this.all.get(id) || {};
  }

  /** Change a study's entry; undefined takes a field away. */
  set(id, changes) {
    const entry = { ...this.of(id), ...changes };
    for (const name of Object.keys(entry)) if (entry[name] === undefined) delete entry[name];
    if (Object.keys(entry).length) this.all.set(id, entry);
    else this.all.delete(id);
    if (!this.isKept) return;
    try {
      localStorage.setItem(this.name, JSON.stringify(Object.fromEntries(this.all)));
    } catch {
      this.isKept = false;
    }
  }

  /** Return a line for each study that is decided, in the page's order. */
  lines(studies) {
    const decided = studies.filter((study) => !study.error && this.of(study.id).decision);
    const inVal = validation(decided.filter((study) => this.of(study.id).decision !== "rejected"));
    return decided.map((study) => {
      const entry = this.of(study.id);
      const draft = study.report ?? null;
      const kept = { accepted: draft, edited: entry.report ?? draft, rejected: null };
      const line = { id: study.id };
      for (const name of ["file", "study", "patient", "view"]) if (study[name] !== undefined) line[name] = study[name];
      line.split = study.split || (inVal.has(study.rank) ? "val" : "train");
      line.decision = entry.decision;
      line.report = kept[entry.decision];
      line.model_prediction = draft;
      line.labels = entry.labels || {};
      return line;
    });
  }
}

/** Return the ranks of the patients or studies that are kept for validation: every fifth, at least one of two. */
function validation(studies) {
  const ranks = [...new Set(studies.filter((study) => !study.split).map((study) => study.rank))].sort((a, b) => a - b);
  return new Set(ranks.slice(0, ranks.length > 1 ? Math.ceil(ranks.length / 5) : 0));
}

function asJsonLines(lines) {
  return lines.map((line) => JSON.stringify(line) + "\n").join("");
}

/**
 * Return lines as CSV: RFC 4180 with a byte order mark. A text that a spreadsheet would compute gets an apostrophe in
 * front, which readers of ours take away again (core/data/tables.py).
 */
function asCsv(lines) {
  const findings = [...new Set(lines.flatMap((line) => Object.keys(line.labels)))];
  const names = ["id", "file", "study", "patient", "view", "split", "decision", "report", "model_prediction"];
  const columns = names.filter((name) => name === "id" || lines.some((line) => line[name] !== undefined));
  const rows = lines.map((line) => [
    ...columns.map((name) => line[name] ?? ""),
    ...findings.map((name) => line.labels[name] ?? ""),
  ]);
  const header = [...columns, ...findings.map((name) => `labels.${name}`)];
  return "\ufeff" + [header, ...rows].map((row) => row.map(csvCell).join(",") + "\r\n").join("");
}

function csvCell(value) {
  let text = String(value);
  if (typeof value === "string" && /^'*[=+\-@\t\r\n]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
