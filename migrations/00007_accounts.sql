-- +goose Up

-- The role of an account, and whether its owner has had it erased. An erased
-- account is a row without a name, and a keyed digest of the name, which stays taken.
alter table accounts
    add column role text not null default 'user' check (role in ('user', 'auditor', 'admin')),
    add column erased_at timestamptz,
    add column erased_name bytea unique check (octet_length(erased_name) = 32),
    add check (erased_at is null or disabled_at is not null);

-- An owner who is closed starts nothing new. Their key is destroyed as soon as
-- everything they started has ended.
alter table owner_keys add column closed_at timestamptz;
create index owner_keys_closed on owner_keys (owner) where closed_at is not null and wrapped is not null;

-- Fails for a closed owner, and keeps an open one from being closed until the
-- end of the transaction.
-- +goose StatementBegin
create function admit(who uuid) returns void language plpgsql as $$
begin
    perform from owner_keys where owner = who and closed_at is null for share;
    if not found then
        raise exception 'owner % is closed', who using errcode = 'CL001';
    end if;
end
$$;
-- +goose StatementEnd

-- Sign-in attempts that are not known to have succeeded, for a day from the first
-- attempt on. key is a digest under the master key: of a name and a network, of a
-- network, or of a name. The digests do not reveal names, networks or other input.
create table sign_in_failures (
    key      bytea       primary key check (octet_length(key) = 32),
    failures integer     not null,
    began_at timestamptz not null,
    at       timestamptz not null -- the latest one
);
create index sign_in_failures_oldest on sign_in_failures (began_at);

-- The known networks of an account, from its sign-ins. key is the digest
-- of account and network. Failures of others do not count there.
create table known_networks (
    key     bytea       primary key check (octet_length(key) = 32),
    account uuid        not null references accounts on delete cascade,
    at      timestamptz not null -- the latest sign-in
);
create index known_networks_of_account on known_networks (account);
create index known_networks_oldest on known_networks (at);

-- The wait after the latest of the given number of failures, before the next
-- attempt. There is no wait while the failures are fewer than free. The wait is then
-- first, and doubles with each further failure, up to most.
-- +goose StatementBegin
create function sign_in_wait(failures integer, free integer, first interval, most interval)
returns interval language sql immutable as $$
    select case when failures < free then interval '0' else least(most, first * power(2, least(failures - free, 30))) end
$$;
-- +goose StatementEnd

grant select, insert, update, delete on sign_in_failures, known_networks to colophon_app;

-- +goose Down
drop function sign_in_wait;
drop table known_networks;
drop table sign_in_failures;
drop function admit;
alter table owner_keys drop column closed_at;
alter table accounts drop column erased_name, drop column erased_at, drop column role;
