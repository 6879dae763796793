const data = JSON.parse(document.getElementById("data").textContent);
const studies = data.studies;
const edits = new Edits(data.key);
const byId = (id) => document.getElementById(id);
const trip = new Viewer(byId("trip"), () => {});
const film = new Viewer(byId("film"), showWindow);
/** What is shown: the studies that match, in order; where the reader is; whether one study or the grid is open. */
const view = { list: [], at: 0, isSingle: false, isEditing: false, sentence: null };
const cardOf = new Map();

/** Return an element; text is set as text, never as markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const badge = (text, kind = "") => make("span", { className: `badge ${kind}`, textContent: text });

function badges(study) {
  const decision = decisionOf(study);
  const found = decision ? [badge(decision, decision)] : [];
  if (study.error) found.push(badge("refused", "conflict"));
  if (study.conflicts.length) found.push(badge(counted(study.conflicts.length, "conflict"), "conflict"));
  if (study.unlike !== undefined) found.push(badge("unlike"));
  return found;
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
/** A refused input may have the id of a study: it has no decision. */
const decisionOf = (study) => (study.error ? undefined : edits.of(study.id).decision);
const reportOf = (study) => edits.of(study.id).report ?? study.report ?? "";

function makeCard(study) {
  const picture = study.film
    ? make("img", { alt: "", decoding: "async" })
    : make("div", { className: "none", textContent: study.error ? study.error.message : "no picture" });
  const card = make("article", { className: "study", tabIndex: -1 }, picture);
  card.setAttribute("role", "listitem");
  card.append(make("b", { textContent: study.file || study.id, title: study.id }), make("div"), make("p"));
  card.addEventListener("click", () => open(view.list.indexOf(study)));
  card.addEventListener("focus", () => moveTo(view.list.indexOf(study)));
  fillCard(study, card);
  return card;
}

function fillCard(study, card) {
  const [, , tags, text] = card.children;
  tags.replaceChildren(...badges(study));
  text.textContent = reportOf(study);
  card.setAttribute("aria-label", `${study.id} ${[...tags.children].map((one) => one.textContent).join(" ")}`);
}

/** Films are decoded as they come near the window: a thousand at once would not be. */
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      target.src = target.film;
    }
  },
  { rootMargin: "500px" },
);
const FILTERS = {
  all: ["All studies", () => true],
  conflicts: ["With conflicts", (study) => study.conflicts.length > 0],
  unlike: ["Unlike the train films", (study) => study.unlike !== undefined],
  notes: ["With notes", (study) => study.notes.length > 0],
  refused: ["Refused", (study) => Boolean(study.error)],
  undecided: ["Undecided", (study) => !study.error && !decisionOf(study)],
  accepted: ["Accepted", (study) => decisionOf(study) === "accepted"],
  edited: ["Edited", (study) => decisionOf(study) === "edited"],
  rejected: ["Rejected", (study) => decisionOf(study) === "rejected"],
};
const findingNames = [...new Set(studies.flatMap((study) => (study.findings || []).map((one) => one.name)))].sort();
const probability = (study, name) => (study.findings || []).find((one) => one.name === name)?.p ?? -1;
const byName = (first, second) => (first < second ? -1 : first > second ? 1 : 0);
const SORTS = {
  given: ["In the order read", () => 0],
  id: ["By id", (first, second) => byName(first.id, second.id)],
  conflicts: ["By conflicts", (first, second) => second.conflicts.length - first.conflicts.length],
};
for (const name of findingNames) {
  SORTS[`p:${name}`] = [`By p(${name})`, (first, second) => probability(second, name) - probability(first, name)];
}
for (const [id, choices] of [["filter", FILTERS], ["sort", SORTS]]) {
  byId(id).append(...Object.entries(choices).map(([value, [text]]) => make("option", { value, textContent: text })));
  byId(id).addEventListener("change", update);
}

function matches(study, words) {
  if (!words.length) return true;
  const parts = [study.id, study.file, reportOf(study), ...study.conflicts, ...study.notes, study.error?.message];
  const text = parts.filter(Boolean).join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Choose and order what is shown; the study that was open stays the one the reader is at, if it is still there. */
function update() {
  const current = view.list[view.at];
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const keeps = FILTERS[byId("filter").value][1];
  view.list = studies.filter((study) => keeps(study) && matches(study, words)).sort(SORTS[byId("sort").value][1]);
  byId("grid").replaceChildren(...view.list.map((study) => cardOf.get(study)));
  byId("empty").hidden = view.list.length > 0;
  moveTo(Math.max(0, view.list.indexOf(current)));
  count();
  if (view.isSingle) showSingle();
}

function count() {
  const named = ["accepted", "edited", "rejected"].map((name) => `${studies.filter(FILTERS[name][1]).length} ${name}`);
  const left = `${studies.filter(FILTERS.undecided[1]).length} undecided`;
  byId("counts").textContent = [`${view.list.length} of ${studies.length} shown`, ...named, left].join(" \u00b7 ");
  byId("storage").hidden = edits.isKept;
}

function moveTo(at) {
  if (at < 0) return;
  const before = cardOf.get(view.list[view.at]);
  if (before) before.tabIndex = -1;
  view.at = Math.min(at, Math.max(0, view.list.length - 1));
  const card = cardOf.get(view.list[view.at]);
  if (card) card.tabIndex = 0;
}

function open(at) {
  if (at < 0 || at >= view.list.length) return;
  moveTo(at);
  view.isSingle = true;
  byId("grid").hidden = true;
  byId("single").hidden = false;
  byId("to-grid").textContent = "Grid (g)";
  film.fit();
  trip.fit();
  showSingle();
}

function closeSingle() {
  view.isSingle = view.isEditing = false;
  byId("grid").hidden = false;
  byId("single").hidden = true;
  byId("to-grid").textContent = "Open (g)";
  cardOf.get(view.list[view.at])?.focus();
}

const toggleGrid = () => (view.isSingle ? closeSingle() : open(view.at));

/** Go on by some studies, in either view. */
function step(by) {
  const at = view.at + by;
  if (at < 0 || at >= view.list.length) return;
  if (view.isSingle) return open(at);
  moveTo(at);
  cardOf.get(view.list[at]).focus();
}

function showSingle() {
  const study = view.list[view.at];
  byId("single").hidden = !study;
  if (!study) return;
  view.sentence = null;
  view.isEditing = false;
  film.show(study.film);
  trip.blocks = null;
  trip.show(study.roundtrip);
  byId("place").textContent = `${view.at + 1} of ${view.list.length}`;
  byId("study-id").textContent = study.file || study.id;
  const facts = [study.file ? study.id : null, study.view, study.age_group].filter(Boolean);
  byId("study-facts").textContent = facts.join(" \u00b7 ");
  showFlags(study);
  showDecision(study);
  showReport(study);
  showFindings(study);
}

function showFlags(study) {
  const flag = (text, kind) => make("p", { className: `flag ${kind}`, textContent: text });
  const refused = study.error ? [flag(`Refused (${study.error.code}): ${study.error.message}`, "conflict")] : [];
  const conflicts = study.conflicts.map((text) => flag(`Conflict: ${text}`, "conflict"));
  byId("flags").replaceChildren(...refused, ...conflicts);
  byId("notes").hidden = !study.notes.length;
  byId("notes").lastElementChild.replaceChildren(...study.notes.map((text) => make("li", { textContent: text })));
}

function showDecision(study) {
  // A browser takes the focus from what is hidden with its next frame only: keys before it would be typed, not obeyed.
  if (!view.isEditing) byId("edited").blur();
  const decision = decisionOf(study);
  byId("decision").textContent = decision || "";
  byId("decision").className = `badge ${decision || ""}`;
  byId("decide").hidden = Boolean(study.error) || view.isEditing;
  byId("editor").hidden = !view.isEditing;
  byId("report").hidden = view.isEditing;
  byId("undo").disabled = !decision;
}

function showReport(study) {
  if (study.error) return byId("report").replaceChildren();
  const { report } = edits.of(study.id);
  if (report !== undefined && report !== study.report) {
    const draft = make("details", {}, make("summary", { textContent: "The model's draft" }));
    draft.append(make("p", { className: "whole was", textContent: study.report || "" }));
    return byId("report").replaceChildren(make("p", { className: "whole", textContent: report }), draft);
  }
  if (!study.sentences.length) {
    const text = study.report ?? "The model has no text tokenizer: there is no report to read.";
    return byId("report").replaceChildren(make("p", { className: "whole", textContent: text }));
  }
  byId("report").replaceChildren(...study.sentences.map((sentence, index) => sentenceButton(study, sentence, index)));
}

function sentenceButton(study, sentence, index) {
  const button = make("button", { type: "button", className: "sentence" }, make("span", { textContent: sentence.text }));
  button.append(" ", badge(sentence.badge, sentence.is_text_alone ? "" : "image"));
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    view.sentence = view.sentence === index ? null : index;
    trip.blocks = view.sentence === null ? null : sentence.blocks || null;
    [...byId("report").children].forEach((one, at) => one.setAttribute("aria-pressed", String(at === view.sentence)));
    if (trip.blocks) showTrip(true);
    trip.draw();
  });
  return button;
}

function showFindings(study) {
  const findings = study.findings || [];
  if (!findings.length) return byId("findings").replaceChildren();
  const text = "Findings by the head: bar, threshold, probability; on the right, what you say.";
  byId("findings").replaceChildren(
    make("h3", { textContent: "Findings" }),
    make("p", { className: "soft", textContent: text }),
    ...findings.map((finding) => findingRow(study, finding)),
  );
}

function findingRow(study, finding) {
  const isOver = finding.threshold !== undefined && finding.p >= finding.threshold;
  const row = make("div", { className: `finding ${isOver ? "over" : ""}` });
  const name = make("span", { className: "name", textContent: finding.name });
  if (finding.auroc !== undefined) name.title = `AUROC in validation ${finding.auroc.toFixed(3)}`;
  if (finding.agreement === "conflicts") name.append(" ", badge("report says otherwise", "conflict"));
  if (finding.agreement === "agrees") name.append(" ", badge("report agrees", "accepted"));
  const choice = make("select", { "aria-label": `${finding.name}: what you say` });
  const choices = [["", "\u2013"], ["1", "present"], ["0", "absent"]];
  choice.append(...choices.map(([value, textContent]) => make("option", { value, textContent })));
  choice.value = String(edits.of(study.id).labels?.[finding.name] ?? "");
  choice.addEventListener("change", () => {
    const labels = { ...edits.of(study.id).labels };
    if (choice.value === "") delete labels[finding.name];
    else labels[finding.name] = Number(choice.value);
    edits.set(study.id, { labels: Object.keys(labels).length ? labels : undefined });
    count();
  });
  row.append(name, bar(finding), make("span", { className: "p", textContent: finding.p.toFixed(3) }), choice);
  return row;
}

/** Return a bar from 0 to 1 with a line at the threshold. */
function bar(finding) {
  const draw = (tag, values) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
    return element;
  };
  const drawn = draw("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawn.append(draw("rect", { class: "fill", width: 100 * finding.p, height: 12 }));
  if (finding.threshold !== undefined) {
    const x = 100 * finding.threshold;
    drawn.append(draw("line", { class: "tick", x1: x, x2: x, y1: 0, y2: 12, "vector-effect": "non-scaling-stroke" }));
  }
  return drawn;
}

/** Take a decision on the study the reader is at; undefined takes it back. An edited report stays what was edited. */
function decide(decision) {
  const study = view.list[view.at];
  if (!study || study.error) return;
  const isEdit = decision === "accepted" && edits.of(study.id).report !== undefined;
  edits.set(study.id, { decision: isEdit ? "edited" : decision });
  fillCard(study, cardOf.get(study));
  view.isEditing = false;
  count();
  if (!view.isSingle) return;
  showDecision(study);
  showReport(study);
}

function edit() {
  const study = view.list[view.at];
  if (!study || study.error) return;
  if (!view.isSingle) open(view.at);
  view.isEditing = true;
  byId("edited").value = reportOf(study);
  showDecision(study);
  byId("edited").focus();
}

function save() {
  const [study, text] = [view.list[view.at], byId("edited").value.trim()];
  edits.set(study.id, { report: text === (study.report ?? "").trim() ? undefined : text });
  decide("accepted");
}

function cancel() {
  view.isEditing = false;
  showDecision(view.list[view.at]);
}

function showWindow() {
  byId("level").value = film.look.level;
  byId("width").value = film.look.width;
}

function resetWindow() {
  film.set({ level: 127.5, width: 255 });
  showWindow();
}

const press = (id, isPressed) => byId(id).setAttribute("aria-pressed", String(isPressed));

function showTrip(isShown) {
  byId("trip").hidden = byId("trip-note").hidden = !isShown;
  press("show-trip", isShown);
}

function toggleDrag() {
  film.isWindowing = !film.isWindowing;
  press("drag-mode", film.isWindowing);
}

function toggleInvert() {
  film.set({ isInverted: !film.look.isInverted });
  press("invert", film.look.isInverted);
}

function exportAs(kind) {
  const lines = edits.lines(studies);
  if (kind === "csv") download(asCsv(lines), "edits.csv", "text/csv");
  else download(asJsonLines(lines), "edits.jsonl", "application/jsonl");
}

const CLICKS = {
  "to-grid": toggleGrid,
  "to-help": () => byId("help").showModal(),
  "export-jsonl": () => exportAs("jsonl"),
  "export-csv": () => exportAs("csv"),
  "zoom-in": () => film.zoomBy(1.4),
  "zoom-out": () => film.zoomBy(1 / 1.4),
  "zoom-fit": () => film.fit(),
  "drag-mode": toggleDrag,
  invert: toggleInvert,
  "show-trip": () => showTrip(byId("trip").hidden),
  "window-reset": resetWindow,
  previous: () => step(-1),
  next: () => step(1),
  accept: () => decide("accepted"),
  edit,
  reject: () => decide("rejected"),
  undo: () => decide(undefined),
  save,
  cancel,
};
for (const [id, action] of Object.entries(CLICKS)) byId(id).addEventListener("click", action);
for (const name of ["level", "width"]) {
  byId(name).addEventListener("input", (event) => film.set({ [name]: Number(event.target.value) }));
}
byId("search").addEventListener("input", update);

const KEYS = {
  j: () => step(1),
  ArrowRight: () => step(1),
  ArrowDown: () => step(view.isSingle ? 1 : columns()),
  k: () => step(-1),
  ArrowLeft: () => step(-1),
  ArrowUp: () => step(view.isSingle ? -1 : -columns()),
  Enter: () => view.isSingle || open(view.at),
  Escape: () => view.isSingle && closeSingle(),
  g: toggleGrid,
  a: CLICKS.accept,
  e: edit,
  r: CLICKS.reject,
  u: CLICKS.undo,
  "+": CLICKS["zoom-in"],
  "=": CLICKS["zoom-in"],
  "-": CLICKS["zoom-out"],
  0: CLICKS["zoom-fit"],
  w: toggleDrag,
  i: toggleInvert,
  t: CLICKS["show-trip"],
  "/": () => byId("search").focus(),
  "?": CLICKS["to-help"],
};

const columns = () => getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Enter" && view.isEditing) save();
    return;
  }
  if (byId("help").open) return;
  const isField = event.target.closest("input, textarea, select");
  if (isField) {
    if (event.key !== "Escape") return;
    if (view.isEditing) cancel();
    isField.blur();
    return;
  }
  const isOwn = event.target.closest("button, summary") && ["Enter", " "].includes(event.key);
  const action = isOwn ? undefined : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

for (const study of studies) {
  const card = makeCard(study);
  cardOf.set(study, card);
  if (!study.film) continue;
  card.firstChild.film = study.film;
  near.observe(card.firstChild);
}
byId("bar").hidden = false;
byId("to-grid").textContent = "Open (g)";
showWindow();
update();
