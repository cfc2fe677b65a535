"""Studies: open questions about on-policy self-distillation, each one comparison at equal budget.

    python -m recipes.studies.signal --out runs/signal
    python -m recipes.studies.signal --out runs/signal data=problems.jsonl model=Qwen/Qwen3-1.7B

Every study is a function that takes a folder and options of `autodidact.compare`, writes a run
directory with a report, and prints a table. What was seen on the tiny model: `docs/studies`.
"""
