-- Listings of instances, newest first, without reading those of other states, workflows or days.
create index instance_by_status on instance_row (status);
create index instance_by_workflow on instance_row (name, status);
create index instance_by_start on instance_row (start_time);
