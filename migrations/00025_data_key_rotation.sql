-- +goose Up

-- key_number numbers an owner's data keys from 1. Adding the column rewrites no row, so the
-- lock is brief.
alter table owner_keys add column key_number integer not null default 1;

-- One row is a data key that another one has taken the place of. In the state 'sealing',
-- processes that have it in memory may still seal with it. In the state 'reading' nothing is
-- sealed with it any more, and what it has sealed is sealed again with the key in owner_keys.
-- The row is then deleted, or is 'kept' if only this key opens events of schema 1, whose
-- ciphertext cannot change.
create table replaced_keys (
    owner         uuid        not null,
    key_number    integer     not null,
    wrapped       bytea       not null,
    master_key_id bytea,
    replaced_at   timestamptz not null default clock_timestamp(),
    state         text        not null default 'sealing' check (state in ('sealing', 'reading', 'kept')),
    primary key (owner, key_number)
);
create unique index replaced_keys_one_at_a_time on replaced_keys (owner) where state <> 'kept';
grant select, delete on replaced_keys to colophon_app;

-- The erasure of an owner destroys the replaced keys too, by whatever program.
-- +goose StatementBegin
create function destroy_replaced_keys() returns trigger language plpgsql as $$
begin
    delete from replaced_keys where owner = new.owner;
    return null;
end
$$;
-- +goose StatementEnd
create trigger replaced_keys_go_too after update of wrapped on owner_keys
    for each row when (new.wrapped is null) execute function destroy_replaced_keys();

-- sealed_by returns a ciphertext if the key that has sealed it may still do so. All rows with
-- ciphertext are written through it. Until the transaction ends, no replacement of the key
-- ends the key's use. The lock is taken in a statement of its own, because only a later
-- statement sees what was committed while it waited.
-- +goose StatementBegin
create function sealed_by(who uuid, number integer, ciphertext bytea) returns bytea language plpgsql strict as $$
begin
    perform pg_advisory_xact_lock_shared(hashtextextended('data key ' || who, 0));
    if exists (select from owner_keys where owner = who and key_number = number and wrapped is not null)
        or exists (select from replaced_keys where owner = who and key_number = number and state = 'sealing')
    then
        return ciphertext;
    end if;
    if exists (select from owner_keys where owner = who and wrapped is not null) then
        raise exception 'the data key of owner % was replaced', who using errcode = 'serialization_failure';
    end if;
    raise exception 'owner % is erased', who using errcode = 'CL001';
end
$$;
-- +goose StatementEnd

-- An event never changes, with two exceptions for its ciphertext. It is emptied after the key
-- of its owner has been destroyed, or after its job has been erased. It is replaced by another
-- one while the owner's key is replaced, by the owner of the table, never by the service.
-- +goose StatementBegin
create or replace function allow_only_erasure() returns trigger language plpgsql as $$
declare
    changed events := old;
begin
    changed.sealed := new.sealed;
    changed.follows := new.follows; -- a generated column has no value yet
    if new is not distinct from changed then
        if new.sealed is null and (
            exists (select from owner_keys where owner = old.owner and wrapped is null)
            or exists (select from events where stream = old.stream and type = 'job.erased')
        ) then
            return new;
        end if;
        if new.sealed is not null and old.sealed is not null
            and exists (select from replaced_keys where owner = old.owner and state = 'reading')
            and pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'usage')
        then
            return new;
        end if;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from replaced_keys) then
        raise exception 'data keys were replaced, and events are sealed with the earlier ones, which earlier releases cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function allow_only_erasure() returns trigger language plpgsql as $$
declare
    emptied events := old;
begin
    emptied.sealed := null;
    emptied.follows := new.follows; -- a generated column has no value yet
    if new is not distinct from emptied and (
        exists (select from owner_keys where owner = old.owner and wrapped is null)
        or exists (select from events where stream = old.stream and type = 'job.erased')
    ) then
        return new;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;
-- +goose StatementEnd
drop function sealed_by;
drop trigger replaced_keys_go_too on owner_keys;
drop function destroy_replaced_keys;
drop table replaced_keys;
alter table owner_keys drop column key_number;
