-- Several locations in one file: the one that the file belongs to (0), and those of the participants beside it. And the text of
-- a message is written once: on its way it is its sender's, afterwards it is a part of the step that it led to.
-- Rows that were there before are those of the file's own location.

create table location_row (
  key  integer primary key,             -- from 1
  name text not null unique
);

drop view workflow_instance;
drop view service_task;
drop view event;
drop view subscription;
drop view published_event;
drop view definition;
drop view outgoing_message;
drop view dead_letter;

create table instance_new (
  key            integer primary key,   -- order of creation
  uid            text not null,         -- workflow_instance.id
  location       integer not null,      -- each has its own row of an instance
  due            integer,               -- null: only on input; least integer: at once; else when
  status         text not null,
  namespace      text not null,
  name           text not null,
  version        text not null,
  start_time     integer not null,
  end_time       integer,
  correlation_id text,                  -- null: its own uid
  mode           text not null,
  digest         text not null,
  parent_id      text,
  parent_task    text,
  compensation   text not null,         -- JSON
  error          text,                  -- JSON
  output         text,                  -- JSON
  input          text not null          -- JSON
);
insert into instance_new select key, uid, 0, due, status, namespace, name, version, start_time, end_time, correlation_id,
  mode, digest, parent_id, parent_task, compensation, error, output, input from instance_row;
drop table instance_row;
alter table instance_new rename to instance_row;
create unique index instance_by_uid on instance_row (uid, location);
create index instance_due on instance_row (due) where due is not null;
create index instance_by_correlation on instance_row (correlation_id) where correlation_id is not null;
-- Listings are asked for at the file's own location: parts of instances at others cost them nothing.
create index instance_by_status on instance_row (status) where status <> 'completed' and location = 0;
create index instance_by_workflow on instance_row (name) where location = 0;
create index instance_by_start on instance_row (start_time) where location = 0;

create table definition_new (
  key         integer primary key,      -- order of deployment
  location    integer not null,
  digest      text not null,
  namespace   text not null,
  name        text not null,
  version     text not null,
  text        text not null,
  resources   text not null,
  deployed_at integer not null,
  unique (location, digest)
);
insert into definition_new
  select key, 0, digest, namespace, name, version, text, resources, deployed_at from definition_row;
drop table definition_row;
alter table definition_new rename to definition_row;

create table cursor_new (
  location integer not null,
  reader   text not null,
  position integer not null,            -- dealt with
  primary key (location, reader)
);
insert into cursor_new select 0, reader, position from cursor_row;
drop table cursor_row;
alter table cursor_new rename to cursor_row;

create table message_row (
  key  integer primary key,
  head text not null,                   -- a CloudEvent as JSON, up to the value of `data`, its last member
  data text                             -- that value; null: `head` is the whole text
);
insert into message_row select position, envelope, null from outgoing_row;
insert into message_row select position, envelope, null from dead_row;

create table outgoing_new (
  position integer primary key,         -- location << 48 | given by the sender
  receiver text not null,               -- a location: `engine`, or a service
  message  integer not null references message_row (key)
);
insert into outgoing_new select position, receiver, position from outgoing_row;
drop table outgoing_row;
alter table outgoing_new rename to outgoing_row;

create table dead_new (
  position integer primary key,         -- the one it had on its way
  receiver text not null,
  reason   text not null,
  message  integer not null references message_row (key)
);
insert into dead_new select position, receiver, reason, position from dead_row;
drop table dead_row;
alter table dead_new rename to dead_row;

-- With a message the payload is in three parts: `payload`, the data of the message, `tail`.
alter table event_row add column message integer references message_row (key);
alter table event_row add column tail text;

create view workflow_instance as select
  uid as id, namespace, name, version, digest, mode, status, ifnull(correlation_id, uid) as correlation_id,
  input, output, error, compensation ->> 'status' as compensation, compensation as compensation_detail,
  strftime('%Y-%m-%dT%H:%M:%fZ', start_time / 1000.0, 'unixepoch') as start_time,
  strftime('%Y-%m-%dT%H:%M:%fZ', end_time / 1000.0, 'unixepoch') as end_time,
  parent_id, parent_task
from instance_row where location = 0;

create view service_task as select
  i.uid || ':' || t.run as id, i.uid as workflow_instance_id, t.reference, t.name, t.service_name, t.kind, t.status,
  t.attempt, t.input_data, t.output_data, t.error,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.start_time / 1000.0, 'unixepoch') as start_time,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.end_time / 1000.0, 'unixepoch') as end_time,
  t.compensates
from task_row t join instance_row i on i.key = t.instance;

create view event as select
  e.key as id, e.event_type, i.namespace || '/' || i.name as source, e.subject,
  e.payload || ifnull((select data from message_row where key = e.message), '') || ifnull(e.tail, '') as payload,
  strftime('%Y-%m-%dT%H:%M:%fZ', e.timestamp / 1000.0, 'unixepoch') as timestamp,
  i.uid as workflow_instance_id, (select name from location_row where key = i.location) as location, e.seq,
  i.uid || ':' || e.run as service_task_id, ifnull(e.correlation_id, i.uid) as correlation_id, e.causation_id
from event_row e join instance_row i on i.key = e.instance;

create view subscription as select
  i.uid as workflow_instance_id, s.type as event_type
from subscription_row s join instance_row i on i.key = s.instance;

create view published_event as select
  position, envelope ->> 'id' as id, envelope ->> 'source' as source, envelope ->> 'type' as type, envelope
from outbox_row where position >> 48 = 0;

create view definition as select
  namespace, name, version, digest, text, resources,
  strftime('%Y-%m-%dT%H:%M:%fZ', deployed_at / 1000.0, 'unixepoch') as deployed_at
from definition_row where location = 0;

create view outgoing_message as select
  sender, position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, envelope
from (
  select (select name from location_row where key = o.position >> 48) as sender, o.position & 0xffffffffffff as position,
    o.receiver, m.head || ifnull(m.data || '}', '') as envelope
  from outgoing_row o join message_row m on m.key = o.message
);

create view dead_letter as select
  sender, position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, reason,
  envelope
from (
  select (select name from location_row where key = d.position >> 48) as sender, d.position & 0xffffffffffff as position,
    d.receiver, d.reason, m.head || ifnull(m.data || '}', '') as envelope
  from dead_row d join message_row m on m.key = d.message
);
