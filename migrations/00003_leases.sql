-- +goose Up

-- One row is one job that somebody is running, or was when his worker died.
-- holder is the attempt that has it; a lease that is not renewed until
-- expires_at may be taken by another. crashes counts the leases that ended so
-- since the job last had a new token. Times are the database's.
create table leases (
    job        uuid        primary key,
    holder     uuid,
    expires_at timestamptz not null,
    tokens     integer     not null,
    crashes    integer     not null default 0
);
create index leases_expired on leases (expires_at) where holder is not null;

grant select, insert, update, delete on leases to colophon_app;

-- +goose Down
drop table leases;
