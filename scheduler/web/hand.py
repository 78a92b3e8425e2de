"""The operator's hand on the page: an event for the utility that phones, its withdrawal, the answer to a voluntary one.

Why a plain form and the API: the page itself may only look. What a person orders here goes the way of
`gridpace events`, under a bearer token that is typed in and lives in the field alone, and that no foreign page can
make a browser send.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

SCRIPT = (Path(__file__).parent / "hand.js").read_text(encoding="utf-8")
READ_ONLY = '<p class="gp-dim">Orders by hand need a token of scope <code>write</code> in <code>api.tokens</code>.</p>'
_FORM = """<details><summary>By hand</summary>
<form class="gp-hand" onsubmit="gridpaceHand(event)" autocomplete="off">
<label>What <select name="act" onchange="form.querySelector('fieldset').disabled = value !== 'add'">
<option value="add">add or change an event</option><option value="cancel">withdraw it</option>
<option value="in">take part (voluntary)</option><option value="out">decline (voluntary)</option></select></label>
<label>Event <input name="id" required maxlength="128" size="14"></label>
<fieldset>
<label>Version <input name="version" type="number" min="0" value="1"
  required title="a change needs a higher one"></label>
<label>Site <input name="site" required maxlength="128" size="10" value="{site}"></label>
<label>Start <input name="start" type="datetime-local" title="by this browser's clock; empty: now"></label>
<label>Minutes <input name="minutes" type="number" min="1" value="60" required></label>
<label>Asks <select name="kind"><option value="limit_kw">import of at most kW</option>
<option value="reduce_kw">kW less than the baseline</option>
<option value="reduce_percent">% less than the baseline</option>
</select></label>
<label><input name="amount" type="number" min="0" step="any" required aria-label="how much"></label>
<label><input name="emergency" type="checkbox"> emergency</label>
</fieldset>
<label>Token <input name="token" type="password" required size="14"></label>
<button>Send</button> <output></output>
</form></details>"""


def form(site: str, may_write: bool) -> str:
    """HTML of the form for `site`; where no token may write, what is missing."""
    return _FORM.format(site=escape(site, quote=True)) if may_write else READ_ONLY
