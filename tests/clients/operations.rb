# The same as operations.py, for dalli 3 with the binary protocol: ENDPOINT USERNAME PASSWORD SECONDS.

require "dalli"
require "json"
require "logger"

ENDPOINT, USERNAME, PASSWORD, SECONDS = ARGV
ITEMS = 200
SIZE = 4000
SET_EVERY = 5
REQUESTS_MIN = 50
PACE_SECONDS = 0.001

# What it only logs: that a socket has failed and another one is opened, or that its server is down.
WARNINGS = []
Dalli.logger = Logger.new(IO::NULL, level: Logger::WARN, formatter: ->(*line) { WARNINGS << line.last })

# What has been stored, and what became of it.
class Items
  attr_reader :errors

  def initialize(client)
    @client = client
    # The version of each item; one whose set has failed has none.
    @versions = {}
    @version = 0
    restart
  end

  def restart
    @requests, @longest, @lost, @wrong, @errors = 0, 0.0, 0, 0, []
  end

  def report
    errors = @errors + WARNINGS
    numbers = { requests: @requests, lost: @lost, wrong: @wrong, longest_ms: (@longest * 1000).round }
    numbers.merge(errors: errors.length, error: errors.first || "").to_json
  end

  def value(number)
    text = "item #{number} of dalli, version #{@versions[number]}. "
    (text * (SIZE / text.length + 1))[0, SIZE]
  end

  # The reply, or the error, which is noted.
  def request(number)
    started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    yield "dalli-#{number}"
  rescue StandardError => error
    @versions.delete(number)
    @errors << "#{error.class}: #{error.message}"
    error
  ensure
    @longest = [@longest, Process.clock_gettime(Process::CLOCK_MONOTONIC) - started].max
    @requests += 1
  end

  def store(number)
    @version += 1
    @versions[number] = @version
    stored = request(number) { |key| @client.set(key, value(number), nil, raw: true) }
    return if stored

    @versions.delete(number)
    @errors << "not stored"
  end

  def check(number)
    return store(number) unless @versions.key?(number)

    expected = value(number)
    found = request(number) { |key| @client.get(key) }
    if found.nil?
      @lost += 1
      store(number)
    elsif !found.is_a?(StandardError)
      @wrong += 1 if found.b != expected.b
    end
  end

  def use(commands, only_reads)
    turn = 0
    while commands.empty? || turn < REQUESTS_MIN
      if (turn % SET_EVERY).zero? && !only_reads
        store(turn / SET_EVERY % ITEMS)
      else
        check(turn % ITEMS)
      end
      puts "begun" if turn.zero?
      turn += 1
      sleep PACE_SECONDS
    end
    raise "another command" unless commands.pop == "stop"

    requests = @requests
    ITEMS.times { |number| check(number) }
    @requests = requests
  end
end

$stdout.sync = true
commands = Queue.new
Thread.new do
  $stdin.each_line(chomp: true) { |line| commands << line }
  commands << "end"
end
options = { username: USERNAME, password: PASSWORD, socket_timeout: Integer(SECONDS) }
items = Items.new(Dalli::Client.new(ENDPOINT, options))
ITEMS.times { |number| items.store(number) }
raise items.errors.first unless items.errors.empty?

puts "ready"
while (command = commands.pop) != "end"
  items.restart
  WARNINGS.clear
  items.use(commands, command == "read")
  puts items.report
end
