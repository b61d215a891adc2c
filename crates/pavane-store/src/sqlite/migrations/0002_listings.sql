-- Listings of instances, newest first, without reading those of other states, workflows or days. Each index costs every
-- start: a workflow's has no status in it, so that it costs nothing at the end.
create index instance_by_status on instance_row (status);
create index instance_by_workflow on instance_row (name);
create index instance_by_start on instance_row (start_time);
