"""``python -m gradstore.schemas FOLDER`` writes the printed form of every table; a test holds them equal."""

import json
import sys
from pathlib import Path

from gradstore.schemas.tables import TABLES

for _table in TABLES.values():
    (Path(sys.argv[1]) / f"{_table.name}.json").write_text(
        json.dumps(_table.printed(), indent=2, ensure_ascii=False) + "\n"
    )
