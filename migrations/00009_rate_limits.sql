-- +goose Up

-- One row counts the requests of one user or network under one limit, in a window of
-- time. remaining is the number of requests left in the window, or -1 once a request
-- has been refused. tokens and per are set if the key has a limit of its own. Times are
-- set by the database's clock. The table is unlogged, so a crash of the database loses
-- the counts of the last minute. key is a hash, which reveals no user and no address.
-- Rows are removed long after their window has ended.
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
