"use strict";
// Everything that is shown is set as text: no value of a row is ever read as HTML.
const report = JSON.parse(document.getElementById("data").textContent);
const PAGE = 48;
const find = (id) => document.getElementById(id);
const grid = find("grid"), search = find("search"), errors = find("errors"), more = find("more"), count = find("count");
let filter = "all", shown = PAGE, matching = [];

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// The page was written with relative, http and https addresses alone; nothing else is followed.
const isAddress = (url) => typeof url === "string" && /^(\.{1,2}\/|https?:\/\/)/.test(url);

const list = (pairs) => {
  const made = element("dl");
  for (const [name, value] of pairs) {
    if (value === null || value === "") continue;
    made.append(element("dt", "", name), element("dd", "", String(value)));
  }
  return made;
};

const folded = (title, pairs) => {
  const made = element("details");
  made.append(element("summary", "", title), list(pairs));
  return made;
};

const player = (row) => {
  if (!isAddress(row.play)) return element("div", "none", row.delivered ? "The file is at " + row.file : "No file");
  const video = element("video");
  video.controls = true;
  video.preload = "none";
  video.playsInline = true;
  video.src = row.play;
  if (isAddress(row.poster)) video.poster = row.poster;
  video.setAttribute("aria-label", row.id);
  return video;
};

// --- the review: decisions stay in this page until they are exported ---
const VERDICTS = [["accept", "Accept"], ["reject", "Reject"], ["regenerate", "Regenerate"]];
const bar = find("decide"), reviewer = find("reviewer"), decided = find("decided"), reviewing = find("review");
const decisions = new Map();
let isReview = false;

const tell = (problem) => {
  const lacking = [...decisions.values()].filter((each) => each.decision === "reject" && !each.reason.trim()).length;
  const open = report.rows.filter((row) => row.review && row.review.waits && !decisions.has(row.review.job)).length;
  const parts = [problem, decisions.size + " decided", open ? open + " of those that wait are open" : "",
    lacking ? lacking + " rejected without a reason" : ""];
  decided.textContent = parts.filter(Boolean).join(" · ");
};

const decide = (row, verdict) => {
  const known = decisions.get(row.review.job);
  if (known && known.decision === verdict) decisions.delete(row.review.job);
  else decisions.set(row.review.job, {row: row.id, decision: verdict, reason: known ? known.reason : ""});
  tell();
};

const refresh = (card, row) => {
  const known = decisions.get(row.review.job);
  for (const button of card.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(Boolean(known) && known.decision === button.dataset.verdict));
  }
  const reason = card.querySelector(".reason");
  reason.hidden = !known || known.decision === "accept";
  reason.value = known ? known.reason : "";
};

const controls = (card, row) => {
  const made = element("div", "verdicts");
  for (const [verdict, title] of VERDICTS) {
    const button = element("button", "", title);
    button.type = "button";
    button.dataset.verdict = verdict;
    button.addEventListener("click", () => {
      decide(row, verdict);
      refresh(card, row);
    });
    made.append(button);
  }
  const reason = element("input", "reason");
  reason.placeholder = "Reason";
  reason.maxLength = 1000;
  reason.setAttribute("aria-label", "Reason, " + row.id);
  reason.addEventListener("input", () => {
    const known = decisions.get(row.review.job);
    if (known) known.reason = reason.value;
    tell();
  });
  made.append(reason);
  return made;
};

const exported = () => [...decisions].map(([job, each]) => JSON.stringify({
  batch: report.batch, row: each.row, job, decision: each.decision, reason: each.reason.trim(), reviewer: reviewer.value.trim(),
}) + "\n").join("");

const openReview = (on) => {
  isReview = on;
  bar.hidden = !on;
  reviewing.setAttribute("aria-pressed", String(on));
  tell();
};

const drawn = (row) => {
  const card = element("article", "row");
  card.tabIndex = 0;
  card.dataset.id = row.id;
  card.setAttribute("aria-label", row.id + ", " + row.state);
  const facts = element("div", "facts");
  facts.append(element("h3", "", row.id));
  facts.append(element("div", row.delivered ? "good" : "bad", row.error ? row.state + " · " + row.error : row.state));
  if (row.message) facts.append(element("p", "", row.message));
  for (const flaw of row.quality) facts.append(element("p", "bad", "Quality · " + flaw));
  if (row.facts) facts.append(element("div", "quiet", row.facts));
  if (row.words) facts.append(element("p", "words", row.words));
  if (row.own.length) facts.append(list(row.own));
  if (isAddress(row.play)) {
    const link = element("a", "", "Open the file");
    link.href = row.play;
    link.rel = "noopener noreferrer";
    facts.append(link);
  }
  if (row.request.length) facts.append(folded("Request", row.request));
  facts.append(folded("Job and file", row.details));
  if (row.review && row.review.word) {
    const by = row.review.word + (row.review.by ? " by " + row.review.by : "");
    facts.append(element("p", row.review.word === "accepted" ? "good" : "bad", by + (row.review.reason ? ": " + row.review.reason : "")));
  }
  card.append(player(row), facts);
  if (isReview && row.review) {
    facts.append(controls(card, row));
    refresh(card, row);
  }
  return card;
};

const words = report.rows.map((row) => JSON.stringify([row.id, row.state, row.error, row.message, row.quality, row.model, row.request, row.own, row.details]).toLowerCase());

const fits = (row, index) => {
  if (filter === "delivered" && !row.delivered) return false;
  if (filter === "failed" && row.delivered) return false;
  if (filter === "waiting" && !(row.review && row.review.waits)) return false;
  if (filter === "flawed" && !row.quality.length) return false;
  if (errors.value && row.error !== errors.value) return false;
  const typed = JSON.stringify(search.value.trim().toLowerCase()).slice(1, -1);
  return !typed || words[index].includes(typed);
};

const draw = () => {
  matching = report.rows.filter(fits);
  grid.replaceChildren(...matching.slice(0, shown).map(drawn));
  more.hidden = matching.length <= shown;
  more.textContent = "Show more (" + (matching.length - shown) + ")";
  count.textContent = matching.length + " of " + report.rows.length + (report.rows.length === 1 ? " row" : " rows");
};

const redraw = () => {
  shown = PAGE;
  draw();
};

const choose = (name) => {
  filter = name;
  for (const each of document.querySelectorAll("[data-filter]")) each.setAttribute("aria-pressed", String(each.dataset.filter === name));
};
for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => {
    choose(button.dataset.filter);
    redraw();
  });
}
reviewing.addEventListener("click", () => {
  openReview(!isReview);
  draw();
});
find("others").addEventListener("click", () => {
  for (const row of matching) if (row.review && !decisions.has(row.review.job)) decide(row, "accept");
  draw();
});
bar.addEventListener("submit", (event) => {
  event.preventDefault();
  const lacking = [...decisions.values()].some((each) => each.decision === "reject" && !each.reason.trim());
  if (!reviewer.value.trim()) return tell("Type your name first");
  if (!decisions.size || lacking) return tell(lacking ? "Give the reasons first" : "Decide about a row first");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([exported()], {type: "application/x-ndjson"}));
  link.download = report.batch.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) + ".decisions.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  tell("Exported: prefect-genmedia review apply " + link.download);
});
for (const kind of [...new Set(report.rows.map((row) => row.error).filter(Boolean))].sort()) {
  const option = element("option", "", kind);
  option.value = kind;
  errors.append(option);
}
errors.hidden = errors.options.length < 2;
errors.addEventListener("change", redraw);
search.addEventListener("input", redraw);
more.addEventListener("click", () => {
  const next = shown;
  shown += PAGE;
  draw();
  if (grid.children[next]) grid.children[next].focus();
});

const theme = find("theme");
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const setTheme = (name) => {
  document.documentElement.dataset.theme = name;
  theme.textContent = name === "dark" ? "Light" : "Dark";
};
theme.textContent = isDark() ? "Light" : "Dark";
theme.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));

const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;

const move = (by) => {
  const cards = [...grid.children];
  const now = cards.indexOf(document.activeElement.closest(".row"));
  const next = cards[Math.min(Math.max(now < 0 ? 0 : now + by, 0), cards.length - 1)];
  if (next) next.focus();
};

const play = () => {
  const card = document.activeElement.closest(".row");
  const video = card && card.querySelector("video");
  if (video) video.paused ? video.play() : video.pause();
};

const verdictOf = {a: "accept", x: "reject", g: "regenerate"};

const press = (verdict) => {
  const card = document.activeElement.closest(".row");
  const button = isReview && card && card.querySelector("[data-verdict=" + verdict + "]");
  if (button) button.click();
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea, video, summary, button, a");
  if (event.key === "Escape" && event.target === search) {
    search.value = "";
    redraw();
    search.blur();
    return;
  }
  if (typing) return;
  if (verdictOf[event.key]) return press(verdictOf[event.key]);
  const keys = {
    "/": () => search.focus(), ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(columns()),
    ArrowUp: () => move(-columns()), j: () => move(1), k: () => move(-1), Enter: play, " ": play,
  };
  if (keys[event.key] && (event.key === "/" || event.target.closest(".row") || "jk".includes(event.key))) {
    event.preventDefault();
    keys[event.key]();
  }
});

if (report.rows.some((row) => row.review && row.review.waits)) {
  choose("waiting");
  openReview(true);
}
draw();
