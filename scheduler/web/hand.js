// The operator's hand on the page: an order goes to the API that scripts use, with the token that was typed in.
async function gridpaceHand(submitted) {
  submitted.preventDefault();
  const form = submitted.target, value = (name) => form.elements[name].value.trim();
  const said = form.querySelector("output"), button = form.querySelector("button");
  const one = "/api/v1/events/" + encodeURIComponent(value("id")), act = value("act");
  const [method, url, body] = {
    add: () => ["POST", "/api/v1/events", gridpaceEvent(form, value)],
    cancel: () => ["DELETE", one, undefined],
    in: () => ["POST", one + "/answer", { opt: "in" }],
    out: () => ["POST", one + "/answer", { opt: "out" }],
  }[act]();
  button.disabled = true;
  said.textContent = "…";
  try {
    const headers = { "Content-Type": "application/json", Authorization: "Bearer " + value("token") };
    const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    const told = await answer.json();
    said.textContent = answer.ok ? `${told.id}: ${told.state}, opt ${told.opt}. ${told.reason}` : told.error;
    said.className = answer.ok ? "" : "tone-bad-text";
  } catch (error) {
    said.textContent = "No answer: look at the list whether it was taken, and send it again if not.";
    said.className = "tone-bad-text";
  } finally {
    button.disabled = false;
  }
}

function gridpaceEvent(form, value) {
  const start = value("start");
  return {
    id: value("id"), version: Number(value("version")), site: value("site"),
    start: start ? new Date(start).toISOString() : "now", duration: "PT" + Number(value("minutes")) + "M",
    [value("kind")]: Number(value("amount")), emergency: form.elements.emergency.checked,
  };
}
