-- Listings of instances, newest first, without reading those of other states, workflows or days. Each index costs every
-- start. A workflow's has no status in it, so that it costs nothing at the end; that of states leaves out the one that most
-- instances end in, because the newest of those are found without it.
create index instance_by_status on instance_row (status) where status <> 'completed';
create index instance_by_workflow on instance_row (name);
create index instance_by_start on instance_row (start_time);
