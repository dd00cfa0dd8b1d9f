-- +goose Up

-- One row is a webhook of an owner. sealed has its URL and its keys, under the owner's data
-- key. Until previous_until, messages are also signed with the keys before the last rotation.
-- failing_since is the time of the first failed attempt after the last success. A disabled
-- webhook hears of nothing.
create table webhooks (
    id             uuid        primary key,
    owner          uuid        not null,
    events         text[]      not null check (events <@ array['job.completed', 'job.failed', 'job.cancelled'] and cardinality(events) > 0),
    sealed         bytea       not null,
    created_at     timestamptz not null,
    previous_until timestamptz,
    failing_since  timestamptz,
    disabled_at    timestamptz,
    disabled_for   text        check (disabled_for in ('owner', 'account', 'gone', 'failures')),
    check ((disabled_at is null) = (disabled_for is null))
);
create index webhooks_of_owner on webhooks (owner, id);

-- One row is a message to one webhook. id is the id of the message, the same in each attempt.
-- number gives the messages their order. While a message is waiting, due_at is the time of its
-- next attempt. While an attempt is queued or under way, entry is the id of its queue entry, and
-- due_at the time at which another attempt takes its place. Attempts end at give_up_at. job,
-- version and happened_at are those of the event; a ping has no job.
create table webhook_deliveries (
    id              uuid        primary key,
    number          bigint      not null generated always as identity unique,
    webhook         uuid        not null references webhooks on delete cascade,
    owner           uuid        not null,
    type            text        not null,
    job             uuid,
    version         integer,
    happened_at     timestamptz not null,
    state           text        not null default 'waiting' check (state in ('waiting', 'delivered', 'failed')),
    attempts        integer     not null default 0,
    due_at          timestamptz,
    give_up_at      timestamptz,
    entry           bigint,
    attempted_at    timestamptz,
    attempt_status  integer,
    attempt_reason  text,
    attempt_ms      integer,
    ended_at        timestamptz,
    check ((state = 'waiting') = (due_at is not null)),
    check ((state = 'waiting') = (give_up_at is not null)),
    check ((state = 'waiting') = (ended_at is null))
);
create index webhook_deliveries_of_webhook on webhook_deliveries (webhook, number);
create index webhook_deliveries_waiting on webhook_deliveries (owner, due_at) where state = 'waiting';
create index webhook_deliveries_under_way on webhook_deliveries (owner) where state = 'waiting' and entry is not null;
create index webhook_deliveries_in_order on webhook_deliveries (webhook, job, number) where state = 'waiting';
create index webhook_deliveries_ended on webhook_deliveries (ended_at) where state <> 'waiting';

-- The event that ends a job makes its messages, in the same transaction and whatever program
-- appends it. A failed attempt does not end the job. The payload is canonical, and a quotation
-- mark inside a text is escaped, so the text of a reason cannot look like the member.
-- +goose StatementBegin
create function make_deliveries() returns trigger language plpgsql as $$
begin
    if new.type = 'job.failed' and position('"final":true'::bytea in new.payload) = 0 then
        return null;
    end if;
    insert into webhook_deliveries (id, webhook, owner, type, job, version, happened_at, due_at, give_up_at)
    select gen_random_uuid(), id, owner, new.type, substr(new.stream, 5)::uuid, new.version, new.at, clock_timestamp(), clock_timestamp() + interval '1 day'
    from webhooks where owner = new.owner and disabled_at is null and new.type = any(events);
    return null;
end
$$;
-- +goose StatementEnd
create trigger webhooks_hear after insert on events
    for each row when (new.type in ('job.completed', 'job.failed', 'job.cancelled')) execute function make_deliveries();

-- A disabled webhook has no waiting messages.
-- +goose StatementBegin
create function end_deliveries() returns trigger language plpgsql as $$
begin
    update webhook_deliveries set state = 'failed', due_at = null, give_up_at = null, entry = null, ended_at = clock_timestamp()
    where webhook = new.id and state = 'waiting';
    return null;
end
$$;
-- +goose StatementEnd
create trigger deliveries_end_too after update of disabled_at on webhooks
    for each row when (old.disabled_at is null and new.disabled_at is not null) execute function end_deliveries();

-- A disabled account loses the use of its webhooks as it loses its sessions and its keys, and
-- an erased one loses them altogether, by whatever program. All transactions lock in this order:
-- the webhooks, the account's stream, the owner's key.
-- +goose StatementBegin
create function disable_webhooks_of_account() returns trigger language plpgsql as $$
begin
    perform from webhooks where owner = new.id order by id for update;
    update webhooks set disabled_at = clock_timestamp(), disabled_for = 'account' where owner = new.id and disabled_at is null;
    return null;
end
$$;
-- +goose StatementEnd
create trigger webhooks_rest_too after update of disabled_at on accounts
    for each row when (old.disabled_at is null and new.disabled_at is not null) execute function disable_webhooks_of_account();
-- +goose StatementBegin
create function delete_webhooks_of_owner() returns trigger language plpgsql as $$
begin
    delete from webhooks where owner = new.owner;
    return null;
end
$$;
-- +goose StatementEnd
create trigger webhooks_go_too after update of closed_at on owner_keys
    for each row when (old.closed_at is null and new.closed_at is not null) execute function delete_webhooks_of_owner();

grant select, insert, update, delete on webhooks to colophon_app;
grant select, insert, update, delete on webhook_deliveries to colophon_app;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where type like 'webhook.%') then
        raise exception 'webhooks are on record, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
drop trigger webhooks_hear on events;
drop function make_deliveries;
drop trigger webhooks_rest_too on accounts;
drop function disable_webhooks_of_account;
drop trigger webhooks_go_too on owner_keys;
drop function delete_webhooks_of_owner;
drop table webhook_deliveries;
drop table webhooks;
drop function end_deliveries;
