-- +goose Up

-- One row is one stream with an event that cannot be used. version is the first such
-- event. reason says what is wrong with the event, and never contains its content. owner
-- repeats the column of that event. If the stream is a job's stream and the job had not
-- ended, the state of the job's row in history becomes 'damaged'.
create table quarantine (
    stream  text        collate "C" primary key,
    version integer     not null,
    owner   uuid        not null,
    reason  text        not null,
    at      timestamptz not null default clock_timestamp()
);

alter table history drop constraint history_state_check;
alter table history add constraint history_state_check
    check (state in ('queued', 'running', 'completed', 'failed', 'cancelled', 'damaged'));

-- No event can be added to the damaged stream of a job. Events can still be added to a
-- damaged stream of an account, because every sign-in is recorded, and a damaged account
-- can be erased.
-- +goose StatementBegin
create function refuse_damaged() returns trigger language plpgsql as $$
begin
    if exists (select from quarantine where stream = new.stream) then
        raise exception '% is damaged: no event is added', new.stream using errcode = 'CL002';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
create trigger not_damaged before insert on events
    for each row when (starts_with(new.stream, 'job/')) execute function refuse_damaged();

grant select, insert, delete on quarantine to colophon_app;

-- +goose Down
drop trigger not_damaged on events;
drop function refuse_damaged;
delete from history where state = 'damaged';
alter table history drop constraint history_state_check;
alter table history add constraint history_state_check
    check (state in ('queued', 'running', 'completed', 'failed', 'cancelled'));
drop table quarantine;
