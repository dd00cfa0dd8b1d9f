-- +goose Up

-- One row is the lease of one job that a worker is running, or was running when the
-- worker died. holder is the id of the attempt that has the lease. Another attempt may
-- take a lease that was not renewed before expires_at. crashes counts the leases that
-- expired in this way since the job's last new token. Times are set by the database's
-- clock.
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
