"""Head taxonomy: what kinds of heads a model has, from the numbers of saved reports. Needs neither torch nor the model.

`taxonomy` standardises every head's numbers over all metrics into a profile, draws the profiles in two principal
components, cuts them into clusters, and finds the heads that are most like a given one.
"""

from probe.report.taxonomy.clusters import Clusters
from probe.report.taxonomy.profile import Profile, head_profile
from probe.report.taxonomy.taxonomy import Taxonomy, taxonomy

__all__ = ["Clusters", "Profile", "Taxonomy", "head_profile", "taxonomy"]
