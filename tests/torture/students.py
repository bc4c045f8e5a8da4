"""Re-export small models under the name that the runs in tests/golden hold."""

from tools.torture.students import Little as Little
