//! Services by name: which URLs a host name of an endpoint stands for.
