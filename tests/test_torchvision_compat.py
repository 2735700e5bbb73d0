import subprocess
import sys
import textwrap

import pytest

from imac_torch.datasets.torchvision_compat import import_torchvision


def run(code: str) -> str:
    """Run code in a fresh interpreter: what is imported and declared stays for a process's life."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_datasets_and_transforms_are_usable() -> None:
    torchvision = import_torchvision()
    assert torchvision.datasets.MNIST.__name__ == "MNIST"
    assert torchvision.transforms.ToTensor is not None
    assert import_torchvision() is torchvision


def test_works_after_somebody_elses_failed_import() -> None:
    output = run(
        """
        try:
            import torchvision
        except RuntimeError:
            pass
        from imac_torch.datasets.torchvision_compat import import_torchvision
        print(import_torchvision().datasets.KMNIST.__name__)
        """
    )
    assert output == "KMNIST"


def fake_torchvision(directory, error: str) -> str:
    package = directory / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(error)
    return f"import sys; sys.path.insert(0, {str(directory)!r})\n"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("raise RuntimeError('CUDA versions differ')", "RuntimeError CUDA versions differ"),
        (
            "raise RuntimeError('operator torchvision::roi_align does not exist')",
            "RuntimeError operator torchvision::roi_align does not exist",
        ),
        # Declaring the operator did not help: the error must surface, not loop for ever.
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError operator torchvision::nms does not exist",
        ),
        ("raise ImportError('no PIL')", "ImportError no PIL"),
    ],
)
def test_other_errors_are_passed_on(tmp_path, statement: str, expected: str) -> None:
    setup = fake_torchvision(tmp_path, statement)
    output = run(
        setup
        + textwrap.dedent(
            """
            from imac_torch.datasets.torchvision_compat import import_torchvision
            try:
                import_torchvision()
            except Exception as error:
                print(type(error).__name__, error)
            """
        )
    )
    assert output == expected


def test_a_working_torchvision_gets_no_declarations(tmp_path) -> None:
    setup = fake_torchvision(tmp_path, "")
    output = run(
        setup
        + textwrap.dedent(
            """
            import torch
            from imac_torch.datasets.torchvision_compat import import_torchvision
            import_torchvision()
            print(hasattr(torch.ops.torchvision, "nms"))
            """
        )
    )
    assert output == "False"


def test_declared_operators_do_not_pretend_to_work() -> None:
    output = run(
        """
        import torch
        from imac_torch.datasets.torchvision_compat import import_torchvision
        torchvision = import_torchvision()
        boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
        try:
            kept = torchvision.ops.nms(boxes, scores, 0.5)
            print(kept.tolist() == [0])  # a torchvision that fits this torch
        except RuntimeError as error:
            print("custom C++ ops" in str(error))
        """
    )
    assert output == "True"
