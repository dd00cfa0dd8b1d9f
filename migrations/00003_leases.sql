-- +goose Up

-- One row is one job that a worker is running, or was running when it died.
-- holder is the attempt that has it. Another attempt may take a lease that is
-- not renewed by expires_at. crashes counts the leases that expired this way
-- since the job's last new token. Times are the database's.
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
