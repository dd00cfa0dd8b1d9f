-- +goose Up

-- role gives an account rights beyond its own data. erased_at is set when the account
-- has been erased. The row of an erased account stays, without the name. erased_name is
-- a keyed digest of the name, so that the name stays taken.
alter table accounts
    add column role text not null default 'user' check (role in ('user', 'auditor', 'admin')),
    add column erased_at timestamptz,
    add column erased_name bytea unique check (octet_length(erased_name) = 32),
    add check (erased_at is null or disabled_at is not null);

-- closed_at is set for an owner who may start no more jobs. The owner's key is
-- destroyed as soon as all jobs of the owner have ended.
alter table owner_keys add column closed_at timestamptz;
create index owner_keys_closed on owner_keys (owner) where closed_at is not null and wrapped is not null;

-- admit fails if the owner is closed. Otherwise no other transaction can close the
-- owner before this transaction ends.
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

-- One row counts sign-in attempts that are not known to have succeeded. The count
-- covers a day that begins with the first attempt. key is a digest of a name and a
-- network, of a network, or of a name. The digest is keyed with the master key, so it
-- reveals neither name nor network.
create table sign_in_failures (
    key      bytea       primary key check (octet_length(key) = 32),
    failures integer     not null,
    began_at timestamptz not null,
    at       timestamptz not null -- time of the latest attempt
);
create index sign_in_failures_oldest on sign_in_failures (began_at);

-- One row is one network from which an account has signed in. key is a digest of the
-- account's name and the network. Failures from other networks or under other names do
-- not delay sign-ins to the account from this network.
create table known_networks (
    key     bytea       primary key check (octet_length(key) = 32),
    account uuid        not null references accounts on delete cascade,
    at      timestamptz not null -- time of the latest sign-in
);
create index known_networks_of_account on known_networks (account);
create index known_networks_oldest on known_networks (at);

-- sign_in_wait returns the wait between the latest failure and the next allowed
-- attempt. With fewer failures than free, there is no wait. The next wait is first. It
-- doubles with each further failure, up to most.
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
