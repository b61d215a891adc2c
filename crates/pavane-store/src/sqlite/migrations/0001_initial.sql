-- Schema version 1. Never change this file: write the next number instead.
--
-- People query the views `workflow_instance`, `service_task`, `event`, `subscription`, `published_event` and `definition`.
-- The tables behind them (`*_row`) are laid out for the writer: integer keys, because rows that arrive in key order go
-- to the end of a table, while random keys dirty a page each; times as milliseconds since 1970-01-01T00:00:00Z.
-- Foreign keys are declared for the reader; the writer knows its rows and has them not checked again.

create table definition_row (
  key         integer primary key,   -- order of deployment
  namespace   text not null,
  name        text not null,
  version     text not null,
  digest      text not null unique,
  text        text not null,
  resources   text not null,
  deployed_at integer not null
);

create table instance_row (
  key            integer primary key,   -- order of creation
  uid            text not null unique,  -- workflow_instance.id
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
create index instance_due on instance_row (due) where due is not null;
create index instance_by_correlation on instance_row (correlation_id) where correlation_id is not null;

create table task_row (
  key          integer primary key,
  instance     integer not null references instance_row (key),
  run          integer not null,        -- service_task.id is {instance id}:{run}
  reference    text not null,
  name         text not null,
  service_name text,
  kind         text not null,
  status       text not null,
  attempt      integer not null,
  start_time   integer not null,
  end_time     integer,
  compensates  text,
  error        text,                    -- JSON
  input_data   text not null,           -- JSON
  output_data  text                     -- JSON
);
create unique index task_by_instance on task_row (instance, run);

create table event_row (
  key            integer primary key,
  instance       integer not null references instance_row (key),
  seq            integer not null,
  timestamp      integer not null,
  event_type     text not null,
  subject        text not null,
  run            integer,               -- of the task it belongs to
  correlation_id text,                  -- null: the instance's uid
  causation_id   text,
  payload        text not null          -- JSON
);
create unique index event_by_instance on event_row (instance, seq);

create table subscription_row (
  key      integer primary key,
  instance integer not null references instance_row (key),
  type     text                         -- null: every type
);
create index subscription_by_instance on subscription_row (instance);
create index subscription_by_type on subscription_row (type);

create table outbox_row (
  position integer primary key,         -- from 1, without gaps
  envelope text not null                -- JSON
);

create table cursor_row (
  reader   text primary key,
  position integer not null             -- of the outbox, dealt with
);

create view workflow_instance as select
  uid as id, namespace, name, version, digest, mode, status, ifnull(correlation_id, uid) as correlation_id,
  input, output, error, compensation ->> 'status' as compensation, compensation as compensation_detail,
  strftime('%Y-%m-%dT%H:%M:%fZ', start_time / 1000.0, 'unixepoch') as start_time,
  strftime('%Y-%m-%dT%H:%M:%fZ', end_time / 1000.0, 'unixepoch') as end_time,
  parent_id, parent_task
from instance_row;

create view service_task as select
  i.uid || ':' || t.run as id, i.uid as workflow_instance_id, t.reference, t.name, t.service_name, t.kind, t.status,
  t.attempt, t.input_data, t.output_data, t.error,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.start_time / 1000.0, 'unixepoch') as start_time,
  strftime('%Y-%m-%dT%H:%M:%fZ', t.end_time / 1000.0, 'unixepoch') as end_time,
  t.compensates
from task_row t join instance_row i on i.key = t.instance;

create view event as select
  e.key as id, e.event_type, i.namespace || '/' || i.name as source, e.subject, e.payload,
  strftime('%Y-%m-%dT%H:%M:%fZ', e.timestamp / 1000.0, 'unixepoch') as timestamp,
  i.uid as workflow_instance_id, e.seq, i.uid || ':' || e.run as service_task_id,
  ifnull(e.correlation_id, i.uid) as correlation_id, e.causation_id
from event_row e join instance_row i on i.key = e.instance;

create view subscription as select
  i.uid as workflow_instance_id, s.type as event_type
from subscription_row s join instance_row i on i.key = s.instance;

create view published_event as select
  position, envelope ->> 'id' as id, envelope ->> 'source' as source, envelope ->> 'type' as type, envelope
from outbox_row;

create view definition as select
  namespace, name, version, digest, text, resources,
  strftime('%Y-%m-%dT%H:%M:%fZ', deployed_at / 1000.0, 'unixepoch') as deployed_at
from definition_row;
