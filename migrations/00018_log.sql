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

-- The service itself could spoil the log for ever, because nothing of it can be changed. So
-- the database checks that the log has no gap and the hashes of existing events, and that
-- low only grows, up to the last event.
-- +goose StatementBegin
create function refuse_wrong_entries() returns trigger language plpgsql as $$
begin
    if exists (
        select from (select min(idx) as first, max(idx) as last, count(*) as n from added) as a
        where last - first + 1 <> n or first > 0 and not exists (select from log_entries where idx = a.first - 1)
    ) or exists (
        select from added left join events using (position)
        where events.position is null or added.hash <> sha256(events.payload)
    ) then
        raise exception 'log entries must follow without a gap and have the hashes of events'
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
-- +goose StatementEnd
create trigger no_wrong_entries after insert on log_entries
    referencing new table as added for each statement execute function refuse_wrong_entries();
-- +goose StatementBegin
create function refuse_wrong_low() returns trigger language plpgsql as $$
begin
    if new.low < old.low or new.low > (select coalesce(max(position), 0) from events) then
        raise exception 'low must grow, up to the position of the last event'
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
create trigger no_wrong_low before update on log_state
    for each row execute function refuse_wrong_low();

create unique index events_by_position on events (position);
create index events_of_owner_by_position on events (owner, position);

grant select, insert on log_entries to colophon_app;
grant select, insert on log_nodes to colophon_app;
grant select, update on log_state to colophon_app;

-- +goose Down
drop index events_by_position;
drop index events_of_owner_by_position;
drop table log_state;
drop table log_nodes;
drop table log_entries;
drop function refuse_wrong_low;
drop function refuse_wrong_entries;
