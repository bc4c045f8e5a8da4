"""Re-export data sets and their fingerprint under their documented name."""

from lgkd.data.dataset import DataSet as DataSet
from lgkd.data.dataset import Images as Images
from lgkd.data.dataset import fingerprint_of as fingerprint_of
