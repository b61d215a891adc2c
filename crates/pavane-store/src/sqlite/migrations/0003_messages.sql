-- Messages between the locations of an instance: those on their way, and those that could not be delivered. They are few and
-- short-lived: a row goes when its receiver has the message.
create table outgoing_row (
  position integer primary key,         -- given by the sender
  receiver text not null,               -- a location: `engine`, or a service
  envelope text not null                -- a CloudEvent as JSON
);

create table dead_row (
  position integer primary key,         -- the one it had on its way
  receiver text not null,
  reason   text not null,
  envelope text not null
);

create view outgoing_message as select
  position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, envelope
from outgoing_row;

create view dead_letter as select
  position, receiver, envelope ->> 'pvninstance' as workflow_instance_id, envelope ->> 'type' as type, reason, envelope
from dead_row;
