"""What a right answer costs: energy, carbon and water of answering a question, for each one beyond what guessing gets.

    joules a question = prefill J/token × its tokens + decode J/token × the tokens of its answer
    a correct answer  = joules a question / (pooled accuracy − chance)

Above chance, because a broken model that answers fast gets its share by guessing and would look cheap.
"""

from prunelab.energy import energy

COLUMNS = ("j_per_correct", "gco2_per_correct", "litres_per_correct")


def per_correct(row: dict, session: dict) -> dict:
    """`COLUMNS` and the ends of the first, or `per_correct_missing`: why there are none; {} where nothing was asked.

    row: of the results, with the `pooled_…` figures of its questions. session: the efficiency.json whose energy it has.
    The ends are those of the accuracy's interval; where energy is estimated (`energy_estimated`) so are these.
    """
    if "pooled_accuracy" not in row:
        return {}
    if reason := _missing(row, session):
        return {"per_correct_missing": reason}
    prefill, decode = (session[f"{phase}_j_per_token"] for phase in ("prefill", "decode"))
    question = prefill * row["pooled_query_tokens"] + decode * row["pooled_answer_tokens"]
    above = {end: row[f"pooled_accuracy{end}"] - row["pooled_chance"] for end in ("", "_lo", "_hi")}
    joules = question / above[""]
    found = {"j_per_correct": joules, "j_per_correct_lo": question / above["_hi"]}
    found["j_per_correct_hi"] = question / above["_lo"]
    found["gco2_per_correct"] = energy.grams(joules, session["grams_per_kwh"])
    if (litres := session.get("litres_per_kwh")) is not None:
        found["litres_per_correct"] = energy.litres(joules, litres)
    return found


def _missing(row: dict, session: dict) -> str:
    """Why a right answer has no price; empty where it has one."""
    if row.get("pooled_chance") is None:
        return "what guessing gets is unknown"
    if row.get("pooled_accuracy_lo") is None or row["pooled_accuracy_lo"] <= row["pooled_chance"]:
        return "the accuracy's 95 % interval includes chance"
    if row.get("pooled_query_tokens") is None:
        return "how long the questions of lm-eval's tasks are is unknown"
    if any(session.get(name) is None for name in ("prefill_j_per_token", "decode_j_per_token", "grams_per_kwh")):
        return "no energy was measured"
    return ""
