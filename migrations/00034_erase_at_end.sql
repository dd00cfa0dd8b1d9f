-- +goose Up

-- erase_at_end is true for jobs that are to be erased as soon as they have ended.
alter table history add column erase_at_end boolean not null default false;

-- This index finds such jobs that have ended and whose texts are still there, the oldest first.
create index history_erase_at_end on history (finished_at, job) where erase_at_end and finished_at is not null and sealed is not null;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from history where erase_at_end and sealed is not null) then
        raise exception 'jobs are to be erased at their end, which the release before this one would not do: wait until they have ended and are erased';
    end if;
end $$;
-- +goose StatementEnd
drop index history_erase_at_end;
alter table history drop column erase_at_end;
