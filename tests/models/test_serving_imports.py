"""What serving imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_serving_imports_nothing_that_only_training_needs() -> None:
    """Pins a daily job that waits 3 s for torch and Lightning to score with onnxruntime."""
    script = (
        "import sys; import pipeline.serving.infer, pipeline.stages.serving;"
        "from pipeline.models.family import FAMILIES, server;"
        "[server(name) for name in FAMILIES];"
        "print(sorted({'torch', 'lightning', 'onnxscript', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
