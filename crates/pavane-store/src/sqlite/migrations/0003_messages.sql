-- Messages between the locations of an instance: those on their way, and those that could not be delivered. They are few and
-- short-lived: a row goes when its receiver has the message.
create table outgoing_row (
  position integer primary key,         -- grows; given by the writer, so that none returns while the store is open
  envelope text not null                -- JSON; the receiver is its attribute `pvnto`
);

create table dead_row (
  position integer primary key,         -- the one it had on its way
  reason   text not null,
  envelope text not null                -- JSON
);

create view outgoing_message as select
  position, envelope ->> 'pvnto' as receiver, envelope ->> 'pvninstance' as workflow_instance_id,
  envelope ->> 'type' as type, envelope
from outgoing_row;

create view dead_letter as select
  position, envelope ->> 'pvnto' as receiver, envelope ->> 'pvninstance' as workflow_instance_id,
  envelope ->> 'type' as type, reason, envelope
from dead_row;
