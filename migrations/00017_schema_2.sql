-- +goose Up

-- From this migration on, the payload of an event contains no ciphertext, but a commitment
-- to each secret member and the hash of the previous event. sealed is the ciphertext of the
-- secret members. schema is the version of the payload's form. It has no default, so a
-- program of an earlier release, which does not name it, appends nothing any more. That
-- program could not read the events of this one.
alter table events
    add column schema smallint not null default 1,
    add column sealed bytea,
    add constraint events_sealed_beside_payload check (schema > 1 or sealed is null) not valid; -- existing rows need no check
alter table events alter column schema drop default;

-- emptied_at is the time at which the ciphertext of an erased owner was emptied.
alter table owner_keys add column emptied_at timestamptz;
drop index owner_keys_closed;
create index owner_keys_closed on owner_keys (owner) where closed_at is not null and emptied_at is null;

-- An event never changes, except that its ciphertext is emptied after the key of its owner
-- has been destroyed.
-- +goose StatementBegin
create function allow_only_erasure() returns trigger language plpgsql as $$
declare
    emptied events := old;
begin
    emptied.sealed := null;
    emptied.follows := new.follows; -- a generated column has no value yet
    if new is not distinct from emptied and exists (select from owner_keys where owner = old.owner and wrapped is null) then
        return new;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd
drop trigger append_only on events;
create trigger append_only before delete or truncate on events
    for each statement execute function refuse_change();
create trigger only_erasure before update on events
    for each row execute function allow_only_erasure();
grant update (sealed) on events to colophon_app;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where schema > 1) then
        raise exception 'events of schema 2 cannot be converted to schema 1: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
revoke update (sealed) on events from colophon_app;
drop trigger only_erasure on events;
drop trigger append_only on events;
create trigger append_only before update or delete or truncate on events
    for each statement execute function refuse_change();
drop function allow_only_erasure;
drop index owner_keys_closed;
create index owner_keys_closed on owner_keys (owner) where closed_at is not null and wrapped is not null;
alter table owner_keys drop column emptied_at;
alter table events drop constraint events_sealed_beside_payload, drop column sealed, drop column schema;
