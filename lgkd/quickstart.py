"""Re-export the quickstart's student under the name that older run folders and users' commands hold."""

from lgkd.experiments.quickstart import small_vit as small_vit
