-- +goose Up

-- Workers take queued jobs in the order of (priority, job). Priority 1 comes first.
alter table history add column priority smallint not null default 1 check (priority between 1 and 4);
drop index history_queued;
create index history_queued on history (priority, job) where state = 'queued';
create index history_outstanding on history (owner, job) where state in ('queued', 'running');

-- One row is the number of tokens that an owner's jobs have reserved or used on one
-- day. A job counts for the day (UTC) of its acceptance. Like history, the table can be
-- rebuilt from the events.
create table budgets (
    owner  uuid   not null,
    day    date   not null,
    tokens bigint not null check (tokens >= 0),
    primary key (owner, day)
);

grant select, insert, update, delete on budgets to colophon_app;

-- +goose Down
drop table budgets;
drop index history_outstanding;
drop index history_queued;
create index history_queued on history (job) where state = 'queued';
alter table history drop column priority;
