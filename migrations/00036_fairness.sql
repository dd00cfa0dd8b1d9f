-- +goose Up

-- remaining may be lower than -1: it is -1 minus the number of requests left after a request
-- for several texts was refused, which counts nothing.
alter table rate_limits drop constraint rate_limits_remaining_check;

-- Webhooks can also hear of the ends of responses, in the form of OpenAI's API.
alter table webhooks drop constraint webhooks_events_check;
alter table webhooks add constraint webhooks_events_check check (cardinality(events) > 0 and events <@ array[
    'job.completed', 'job.failed', 'job.cancelled',
    'response.completed', 'response.incomplete', 'response.failed', 'response.cancelled']);

-- The end of the job of a response makes these messages too. The trigger's name sorts after that
-- of webhooks_hear, so the message about the job comes first. The first event of the job says who
-- chose the length of its text. A payload is canonical, and a quotation mark inside a text is
-- escaped, so no text can look like a member.
-- +goose StatementBegin
create function make_response_deliveries() returns trigger language plpgsql as $$
declare
    accepted bytea;
    kind text := 'response.completed';
begin
    if new.type = 'job.failed' and position('"final":true'::bytea in new.payload) = 0
        or not exists (select from webhooks where owner = new.owner and disabled_at is null
            and events && array['response.completed', 'response.incomplete', 'response.failed', 'response.cancelled']) then
        return null;
    end if;
    select payload into accepted from events where stream = new.stream and version = 1;
    if accepted is null or position('"response":"capped"'::bytea in accepted) = 0 and position('"response":"uncapped"'::bytea in accepted) = 0 then
        return null;
    end if;
    if new.type <> 'job.completed' then
        kind := 'response' || substr(new.type, 4);
    elsif position('"finish_reason":"content_filter"'::bytea in new.payload) > 0
        or position('"finish_reason":"length"'::bytea in new.payload) > 0 and position('"response":"capped"'::bytea in accepted) > 0 then
        kind := 'response.incomplete';
    end if;
    insert into webhook_deliveries (id, webhook, owner, type, job, version, happened_at, due_at, give_up_at)
    select gen_random_uuid(), id, owner, kind, substr(new.stream, 5)::uuid, new.version, new.at, clock_timestamp(), clock_timestamp() + interval '1 day'
    from webhooks where owner = new.owner and disabled_at is null and kind = any(events);
    return null;
end
$$;
-- +goose StatementEnd
create trigger webhooks_hear_responses after insert on events
    for each row when (new.type in ('job.completed', 'job.failed', 'job.cancelled')) execute function make_response_deliveries();

-- text_at is the end of the job that generated the text, if that is another job. The index
-- finds such jobs whose texts are still there, the oldest text first.
alter table history add column text_at timestamptz;
create index history_retained_copies on history (text_at, job) where text_at is not null and finished_at is not null and sealed is not null;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from webhooks where events && array['response.completed', 'response.incomplete', 'response.failed', 'response.cancelled']) then
        raise exception 'webhooks hear of responses, which the release before this one does not know: change their events first';
    end if;
end $$;
-- +goose StatementEnd
drop trigger webhooks_hear_responses on events;
drop function make_response_deliveries;
alter table webhooks drop constraint webhooks_events_check;
alter table webhooks add constraint webhooks_events_check check (events <@ array['job.completed', 'job.failed', 'job.cancelled'] and cardinality(events) > 0);
drop index history_retained_copies;
alter table history drop column text_at;
delete from rate_limits where remaining < -1;
alter table rate_limits add constraint rate_limits_remaining_check check (remaining >= -1);
