//! Sessions in Redis: standalone, Sentinel and Cluster.
