-- +goose Up

-- The log is one order of all events of all streams. One row of log_entries gives one event
-- its index, from 0 and without gaps. hash is the SHA-256 of the event's payload. position
-- is the event's column of that name, which is not an order: a transaction may commit after
-- one that has inserted later.
create table log_entries (
    idx      bigint primary key check (idx >= 0),
    position bigint not null unique,
    hash     bytea  not null check (octet_length(hash) = 32)
);

-- One row is the root of the n-th complete subtree of 256^level entries, as RFC 6962
-- computes it.
create table log_nodes (
    level smallint not null check (level > 0),
    n     bigint   not null check (n >= 0),
    hash  bytea    not null check (octet_length(hash) = 32),
    primary key (level, n)
);

-- Each event at a position up to low is in log_entries, or does not exist and never will.
create table log_state (
    one boolean primary key default true check (one),
    low bigint not null
);
insert into log_state (low) values (0);

create trigger append_only before update or delete or truncate on log_entries
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on log_nodes
    for each statement execute function refuse_change();

-- Events of several streams are read by their index. So the indexes by transaction are not
-- needed any more.
create unique index events_by_position on events (position);
create index events_of_owner_by_position on events (owner, position);
drop index events_in_commit_order;
drop index events_of_owner;

grant select, insert on log_entries to colophon_app;
grant select, insert on log_nodes to colophon_app;
grant select, update on log_state to colophon_app;

-- +goose Down
create unique index events_in_commit_order on events (tx, position);
create index events_of_owner on events (owner, tx, position);
drop index events_by_position;
drop index events_of_owner_by_position;
drop table log_state;
drop table log_nodes;
drop table log_entries;
