# The stack, deployed by Terraform from the packaged template of a release: see docs/deploy.md,
# "Without a clone", for the line that makes packaged.yaml. The template is larger than what
# CloudFormation takes in a call, so it lies in the bucket beside the code.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket" {
  type        = string
  description = "The bucket that the release was packaged into, in the stack's region"
}

variable "alert_email" {
  type        = string
  default     = ""
  description = "Gets the alerts and the alarms"
}

data "aws_s3_bucket" "code" {
  bucket = var.bucket
}

# A new template is a new address: otherwise Terraform would see nothing to change.
resource "aws_s3_object" "template" {
  bucket = data.aws_s3_bucket.code.id
  key    = "qwen-token-refresh/${filemd5("packaged.yaml")}.yaml"
  source = "packaged.yaml"
}

resource "aws_cloudformation_stack" "qwen" {
  name         = "qwen-token-refresh"
  template_url = "https://${data.aws_s3_bucket.code.bucket_regional_domain_name}/${aws_s3_object.template.key}"
  # The second one for SAM's transform, which Terraform has expanded while it deploys.
  capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]

  parameters = {
    AlertEmail       = var.alert_email
    LogRetentionDays = "90"
  }

  tags = {
    Team = "chat"
  }
}

# For the roles of the services that read the token.
output "reader_policy_arn" {
  value = aws_cloudformation_stack.qwen.outputs["ReaderPolicyArn"]
}

output "secret_arn" {
  value = aws_cloudformation_stack.qwen.outputs["SecretArn"]
}
