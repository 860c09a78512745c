"""Pictures and captions that are taken in, judged on arrival, edited and given away again, one folder a dataset."""

from .intake import Limits, Verdict, intake, intake_paths
from .record import Contents, Picture, Waiting
from .store import Dataset

__all__ = ["Contents", "Dataset", "Limits", "Picture", "Verdict", "Waiting", "intake", "intake_paths"]
