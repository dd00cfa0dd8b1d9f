-- +goose Up

-- The batch whose line has made the job, or null. Jobs of batches do not count as outstanding.
alter table history add column batch uuid;

-- One row is a batch of requests. The lines before next_line have rows in batch_lines. ranks has
-- the place of each line in the order of the custom ids. faults say why a batch has failed.
create table batches (
    id             uuid        primary key,
    owner          uuid        not null,
    input          uuid        not null,
    endpoint       text        not null,
    api_key        uuid,
    api_key_tokens integer     not null default 0,
    state          text        not null default 'validating' check (state in
        ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled')),
    faults         jsonb,
    ranks          integer[]   not null default '{}',
    next_line      integer     not null default 1,
    completed      integer     not null default 0,
    failed         integer     not null default 0,
    output_bytes   bigint      not null default 0,
    error_bytes    bigint      not null default 0,
    created_at     timestamptz not null default clock_timestamp(),
    expires_at     timestamptz not null,
    in_progress_at timestamptz,
    finalizing_at  timestamptz,
    cancelling_at  timestamptz,
    ended_at       timestamptz,
    check ((state in ('failed', 'completed', 'expired', 'cancelled')) = (ended_at is not null))
);
create index batches_of_owner on batches (owner, id);
create index batches_open on batches (owner, input) where ended_at is null;
create index batches_ended on batches (ended_at) where ended_at is not null;

-- One row is a line of a batch, or with number 0 what its owner said about the batch. sealed has
-- the custom id, and what the answer needs beside the jobs, under the owner's data key.
create table batch_lines (
    batch  uuid    not null references batches on delete cascade,
    number integer not null,
    owner  uuid    not null,
    rank   integer not null,
    state  text    not null check (state in ('running', 'completed', 'failed')),
    jobs   uuid[]  not null default '{}',
    sealed bytea   not null,
    primary key (batch, number)
);
create unique index batch_lines_in_order on batch_lines (batch, rank);
create index batch_lines_running on batch_lines (owner) where state = 'running';
create index batch_lines_of_owner on batch_lines (owner, batch, number);

-- One row is a file. The contents of an input are in file_chunks. Those of an output are made
-- from the lines of its batch when they are read. stored_at is null while a file is uploaded.
create table files (
    id         uuid        primary key,
    owner      uuid        not null,
    batch      uuid        references batches on delete cascade,
    failed     boolean     not null default false,
    bytes      bigint      not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    stored_at  timestamptz
);
create index files_of_owner on files (owner, id);
create index files_of_batch on files (batch) where batch is not null;
create index files_by_age on files (created_at) where batch is null;

-- One row is some whole lines of a file, or with number 0 its name, under the owner's data key.
create table file_chunks (
    file       uuid    not null references files on delete cascade,
    number     integer not null,
    owner      uuid    not null,
    first_line integer not null,
    sealed     bytea   not null,
    primary key (file, number)
);
create index file_chunks_of_owner on file_chunks (owner, file, number);
alter table file_chunks alter column sealed set storage external; -- ciphertext does not shrink

grant select, insert, update, delete on batches, batch_lines, files, file_chunks to colophon_app;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from batches) or exists (select from files) or exists (select from history where batch is not null) then
        raise exception 'files or batches are on record, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
drop table file_chunks;
drop table files;
drop table batch_lines;
drop table batches;
alter table history drop column batch;
