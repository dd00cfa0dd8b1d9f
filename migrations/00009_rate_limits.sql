-- +goose Up

-- One row is one user or network at one limit, in a window of time. remaining is
-- what is left of the window, -1 once a request has been refused; tokens and per
-- are set where the key has a limit of its own. Times are the database's. Unlogged:
-- a crash of the database forgets the counts, which are about the last minute, and
-- keys are hashes, which say nothing of who it is. Rows whose window is long over
-- are removed.
create unlogged table rate_limits (
    key       bytea       primary key check (octet_length(key) = 16),
    remaining bigint      not null check (remaining >= -1),
    ends_at   timestamptz not null,
    tokens    bigint      check (tokens >= 0),
    per       interval    check (per > interval '0')
) with (fillfactor = 50);
grant select, insert, update, delete on rate_limits to colophon_app;

-- +goose Down
drop table rate_limits;
