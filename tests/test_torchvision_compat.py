import subprocess
import sys
import textwrap

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


def test_other_errors_are_passed_on(tmp_path) -> None:
    """One process for all packages; what is declared stays declared, so that comes last."""
    package = tmp_path / "torchvision"
    package.mkdir()
    output = run(
        f"""
        import pathlib, sys
        import torch
        from imac_torch.datasets.torchvision_compat import import_torchvision
        sys.path.insert(0, {str(tmp_path)!r})
        sys.dont_write_bytecode = True
        for statement in (
            "",
            "raise RuntimeError('CUDA versions differ')",
            "raise ImportError('no PIL')",
            "raise RuntimeError('operator torchvision::roi_align does not exist')",
            # Declaring the operator does not help: the error must surface, not loop for ever.
            "raise RuntimeError('operator torchvision::nms does not exist')",
        ):
            pathlib.Path({str(package)!r}, "__init__.py").write_text(statement)
            sys.modules.pop("torchvision", None)
            try:
                import_torchvision()
                print(hasattr(torch.ops.torchvision, "nms"))
            except Exception as error:
                print(type(error).__name__, error)
        """
    )
    assert output.splitlines() == [
        "False",  # a torchvision that works gets no declarations
        "RuntimeError CUDA versions differ",
        "ImportError no PIL",
        "RuntimeError operator torchvision::roi_align does not exist",
        "RuntimeError operator torchvision::nms does not exist",
    ]


def test_works_after_somebody_elses_failed_import_and_does_not_pretend() -> None:
    output = run(
        """
        try:
            import torchvision
        except RuntimeError:
            pass
        import torch
        from imac_torch.datasets.torchvision_compat import import_torchvision
        torchvision = import_torchvision()
        print(torchvision.datasets.KMNIST.__name__)
        boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
        try:
            kept = torchvision.ops.nms(boxes, scores, 0.5)
            print(kept.tolist() == [0])  # a torchvision that fits this torch
        except RuntimeError as error:
            print("custom C++ ops" in str(error))
        """
    )
    assert output == "KMNIST\nTrue"
