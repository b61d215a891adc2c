-- What stands beside an order's steps is written once, and only if it says something.
--
-- What most participants would write about an instance, its row says already. Such a part of an instance has no row: it is
-- there when its steps are. To tell whose those are, the key of an instance has room for a location below it, and the key of a
-- part is that of its instance and its location.

drop view event;
drop view service_task;
drop view subscription;
drop view outgoing_message;
drop view dead_letter;

-- In two steps, so that no key is another's for a moment.
update instance_row set key = -key;
update instance_row set key = -key << 15;

drop index event_by_instance;
update event_row set instance = instance << 15;
create unique index event_by_instance on event_row (instance, seq);

drop index task_by_instance;
update task_row set instance = instance << 15;
create unique index task_by_instance on task_row (instance, run);

drop index subscription_by_instance;
update subscription_row set instance = instance << 15;
create index subscription_by_instance on subscription_row (instance);

-- Every part of an instance, whether or not it has a row.
create view located_instance as
select
  key, uid, location, 0 as implied, due, status, namespace, name, version, start_time, end_time, correlation_id, mode,
  digest, parent_id, parent_task, compensation, error, output, input
from instance_row
union all
select
  i.key | l.key, i.uid, l.key, 1, null, 'completed', i.namespace, i.name, i.version, i.start_time, null, i.correlation_id,
  i.mode, i.digest, i.parent_id, i.parent_task, '{"status":"none","compensated":[],"unresolved":[]}', null, null, 'null'
from instance_row i cross join location_row l
where i.location = 0
  and exists (select 1 from event_row where instance = i.key | l.key)
  and not exists (select 1 from instance_row where key = i.key | l.key);

-- A message whose receiver is in this file is written with the step that sent it: envelope as in `message_row`. `message` is
-- then less than nothing everywhere: the key of that step, negated.
alter table event_row add column head text;
alter table event_row add column sent text;

-- Messages that set out lately: most go soon, and one row for all of them costs less than one for each.
create table outgoing_lately_row (
  key      integer primary key,         -- 1
  messages text not null                -- JSON: of each position, receiver and message
);

create view outgoing_lately as
select value ->> 0 as position, value ->> 1 as receiver, value ->> 2 as message
from outgoing_lately_row, json_each(messages);

create view outgoing as
select position, receiver, message from outgoing_row
union all
select position, receiver, message from outgoing_lately;

-- A step or a task belongs to the row of its key, or to that of the instance whose part it is. Both conditions say so, one for
-- those who come from the instance and one for those who come from the step.
create view service_task as select
  i.uid || ':' || t.run as id, i.uid as workflow_instance_id, t.reference, t.name, t.service_name, t.kind, t.status,
  t.attempt, t.input_data, t.output_data, t.error,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.start_time / 1000.0, 'unixepoch') as start_time,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.end_time / 1000.0, 'unixepoch') as end_time,
  t.compensates
from task_row t join instance_row i
  on i.key = ifnull((select key from instance_row where key = t.instance), t.instance & ~32767)
  and t.instance between i.key and i.key + 32767;

create view event as select
  e.key as id, e.event_type, i.namespace || '/' || i.name as source, e.subject,
  e.payload || ifnull(
    ifnull((select data from message_row where key = e.message), (select sent from event_row where key = -e.message)), ''
  ) || ifnull(e.tail, '') as payload,
  strftime('%Y-%m-%dT%H:%M:%fZ', e.timestamp / 1000.0, 'unixepoch') as timestamp,
  i.uid as workflow_instance_id,
  (select name from location_row where key = iif(i.key = e.instance, i.location, e.instance & 32767)) as location, e.seq,
  i.uid || ':' || e.run as service_task_id, ifnull(e.correlation_id, i.uid) as correlation_id, e.causation_id
from event_row e join instance_row i
  on i.key = ifnull((select key from instance_row where key = e.instance), e.instance & ~32767)
  and e.instance between i.key and i.key + 32767;

create view subscription as select
  i.uid as workflow_instance_id, s.type as event_type
from located_instance i join subscription_row s on s.instance = i.key;

create view outgoing_message as select
  sender, position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, envelope
from (
  select (select name from location_row where key = o.position >> 48) as sender, o.position & 0xffffffffffff as position,
    o.receiver, ifnull(
      (select head || ifnull(data || '}', '') from message_row where key = o.message),
      (select head || sent || '}' from event_row where key = -o.message)
    ) as envelope
  from outgoing o
);

create view dead_letter as select
  sender, position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, reason,
  envelope
from (
  select (select name from location_row where key = d.position >> 48) as sender, d.position & 0xffffffffffff as position,
    d.receiver, d.reason, ifnull(
      (select head || ifnull(data || '}', '') from message_row where key = d.message),
      (select head || sent || '}' from event_row where key = -d.message)
    ) as envelope
  from dead_row d
);
