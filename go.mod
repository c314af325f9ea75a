module slackboard

go 1.25
