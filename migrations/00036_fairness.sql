-- +goose Up

-- remaining may be lower than -1: it is -1 minus the number of requests left after a request
-- for several texts was refused, which counts nothing.
alter table rate_limits drop constraint rate_limits_remaining_check;

-- +goose Down
delete from rate_limits where remaining < -1;
alter table rate_limits add constraint rate_limits_remaining_check check (remaining >= -1);
