-- What a plan allows each second, of each proxy; no limit if there is none. Written by operators, and in
-- force at once for all who have the plan.
ALTER TABLE plans ADD COLUMN operations_per_second BIGINT CHECK (operations_per_second > 0);
-- Of requests and replies together.
ALTER TABLE plans ADD COLUMN bytes_per_second BIGINT CHECK (bytes_per_second > 0);
