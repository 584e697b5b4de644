"""What an option may be, where several families have it."""

TIES = ("first", "split")
POOLS = ("avg", "max", "avgmax", "avg+max")
SPATIAL_POOLS = ("max,mean", "mean,max")
